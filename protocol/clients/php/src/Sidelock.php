<?php
// Locks over processes and hosts, from the sidelockd of this host. One connection, without threads: what the daemon says is
// read whenever a lock is looked at, and while the program waits in here.
declare(strict_types=1);

namespace Sidelock;

const LINE_BYTES_MAX = 65536;
/** Of a line that has not ended; what is longer comes from no daemon. */
const UNENDED_BYTES_MAX = 1 << 20;
const HOLDS_TOLD_MAX = 64; // Of more holds a ping does not say how long they are valid.

/** Seconds on a clock that nobody sets. */
function now(): float
{
    return hrtime(true) / 1e9;
}

/**
 * Does what must not be left in the middle: a handler of a signal, which may throw, is called behind it.
 *
 * @internal
 */
function whole(\Closure $code): mixed
{
    if (!function_exists('pcntl_async_signals') || !pcntl_async_signals()) {
        return $code();
    }
    try {
        pcntl_async_signals(false);
        return $code();
    } finally {
        pcntl_async_signals(true);
        pcntl_signal_dispatch();
    }
}

function milliseconds(float $seconds): int
{
    return max(0, (int) ceil($seconds * 1000));
}

/** Milliseconds that the daemon told; null where it is no time. They are used in sums: nothing of it is longer than a century. */
function timeOf(mixed $value): ?int
{
    return is_int($value) ? max(0, min($value, 100 * 366 * 86400 * 1000)) : null;
}

/** Where the daemon listens: what is given, $SIDELOCK_SOCKET, the user's own daemon if there is one, the system's. */
function socket_path(?string $explicit = null): string
{
    foreach ([$explicit, getenv('SIDELOCK_SOCKET')] as $path) {
        if (is_string($path) && $path !== '') {
            return $path;
        }
    }
    $directory = getenv('XDG_RUNTIME_DIR');
    if (is_string($directory) && $directory !== '') {
        $own = $directory . '/sidelock/sidelock.sock';
        clearstatcache();
        // A folder that this process may not look into counts as having one.
        if (file_exists($own) || (is_dir(dirname($own)) && !is_executable(dirname($own)))) {
            return $own;
        }
    }
    return '/run/sidelock/sidelock.sock';
}

/** Holds a lock, or several, while the function runs, and gives what it gives. */
function with(string|array $names, callable $body, mixed ...$options): mixed
{
    return Client::default()->with($names, $body, ...$options);
}

/** Takes a lock, or with a list of names several, all or none. */
function lock(string|array $names, mixed ...$options): Lock
{
    return Client::default()->acquire($names, ...$options);
}

/** How a hold ended without a release. The reason is connection_ended when the daemon has gone. */
final class Loss
{
    public function __construct(
        public readonly string $name, public readonly int $token, public readonly string $reason, public readonly int $graceMs = 0,
        public readonly ?string $detail = null,
    ) {
    }
}

/** Whatever goes wrong with a lock. `reason` is the stable name of errors.json, or one that this client found. */
class Error extends \RuntimeException
{
    final public function __construct(string $message, public readonly string $reason = '', public readonly array $data = [],
        public readonly ?Loss $loss = null)
    {
        parent::__construct($message);
    }

    /** Who has the lock, as far as the daemon tells. */
    public function holders(): array
    {
        return is_array($this->data['holders'] ?? null) ? $this->data['holders'] : [];
    }

    public static function of(string $reason, string $message, array $data = []): self
    {
        $kind = match ($reason) {
            'busy' => Busy::class, 'timeout' => Timeout::class, 'cancelled' => Cancelled::class, 'not_held' => NotHeld::class,
            'denied', 'permission' => Denied::class, 'deadlock' => Deadlock::class,
            'under_replicated' => UnderReplicated::class,
            'unavailable', 'shutting_down', 'no_daemon', 'no_answer', 'connection_lost' => Unavailable::class,
            default => self::class,
        };
        return new $kind($message, $reason, $data);
    }

    public static function lost(Loss $loss): Lost
    {
        return new Lost("lock {$loss->name} is lost: " . ($loss->detail ?? $loss->reason), 'lost', ['lost' => $loss->reason], $loss);
    }

    /** The error that the `error` member of a reply describes. */
    public static function refusal(mixed $reply): self
    {
        $data = is_array($reply) && is_array($reply['data'] ?? null) ? $reply['data'] : [];
        $word = fn (mixed $value): string => is_scalar($value) ? (string) $value : '';
        $message = is_array($reply) && isset($reply['message']) ? $word($reply['message']) : 'the daemon gave no message';
        $detail = $word($data['detail'] ?? '');
        return self::of($word($data['reason'] ?? ''), $detail !== '' ? "$message: $detail" : $message, $data);
    }
}

class Busy extends Error {}
class Timeout extends Error {}
class Cancelled extends Error {}
class NotHeld extends Error {}
class Lost extends Error {}
class Denied extends Error {}
class Unavailable extends Error {}
class Deadlock extends Error {}

/** Too few replicas of Redis had the lease in time, so the lock was given back. */
class UnderReplicated extends Error
{
    /** How many had it; 0 also where the daemon does not tell. */
    public function acknowledged(): int
    {
        return is_int($this->data['acknowledged'] ?? null) ? $this->data['acknowledged'] : 0;
    }
}

/** A connection, made when it is needed, and again when it has ended. */
final class Client
{
    private static ?Client $default = null;
    private ?Connection $connection = null;
    private ?\Closure $accept = null;

    /** `patience`: for how many seconds the daemon may leave a request unanswered, beyond what was to be waited. */
    public function __construct(public readonly ?string $path = null, private readonly float $patience = 5)
    {
    }

    /** The client of the functions of this namespace. */
    public static function default(): self
    {
        return self::$default ??= new self();
    }

    /**
     * Takes a lock. Options: wait (seconds; null: without limit; 0: a try), shared, permits, maxHold, owner (the same owner gets
     * at once what it holds), meta, enforce, onLost, onWaiting, onContended, replicas (how many replicas of Redis have to have the
     * lease, else UnderReplicated), durability ("memory", or "disk" for the primary and those replicas to have it there; null: as
     * the daemon's settings say).
     */
    public function acquire(string|array $names, mixed ...$options): Lock
    {
        return $this->begin($names, ...$options)->finish();
    }

    /** Holds a lock while the function runs, with the lock as its argument, and gives what it gives. */
    public function with(string|array $names, callable $body, mixed ...$options): mixed
    {
        $lock = $this->acquire($names, ...$options);
        try {
            $result = $body($lock);
        } catch (\Throwable $fault) {
            try {
                $lock->release();
            } catch (Error) {
                // What went wrong in the body is worth more than what followed from it.
            }
            throw $fault;
        }
        if ($lock->isOpen()) {
            $lock->release();
        }
        return $result;
    }

    /** Begins to take a lock, for programs with a loop of their own: see Wait, stream, pause and pump. */
    public function begin(string|array $names, ?float $wait = null, bool $shared = false, ?int $permits = null,
        ?float $maxHold = null, ?string $owner = null, ?string $meta = null, ?string $enforce = null, ?callable $onLost = null,
        ?callable $onWaiting = null, ?callable $onContended = null, ?int $replicas = null, ?string $durability = null): Wait
    {
        $lock = new Lock((array) $names);
        [$lock->onLost, $lock->onWaiting, $lock->onContended] = [$onLost, $onWaiting, $onContended];
        $params = count($lock->names) === 1 ? ['name' => $lock->names[0]] : ['names' => $lock->names];
        $params += array_filter([
            'mode' => $shared ? 'shared' : null, 'permits' => $permits, 'owner' => $owner, 'meta' => $meta, 'on_lost' => $enforce,
            'wait_ms' => $wait === null ? null : milliseconds($wait), 'max_hold_ms' => $maxHold === null ? null : max(1, milliseconds($maxHold)),
            'progress' => $onWaiting || $onContended ? true : null, 'replicas' => $replicas, 'durability' => $durability,
        ], fn ($value) => $value !== null);
        // It has its request before that is sent: whatever happens then, what nobody waits for any more is withdrawn.
        $begun = new Wait($lock, $wait);
        $this->start('acquire', $params, $lock, null, $begun);
        return $begun;
    }

    /** Any method of the protocol, and its result. */
    public function call(string $method, array $params = []): array
    {
        $request = $this->start($method, $params);
        return $request->connection->finish($request);
    }

    /** Events of a lock, or of all whose name begins alike: the function gets each, when it is read. */
    public function watch(callable $told, ?string $name = null, ?string $prefix = null): Watch
    {
        $request = $this->start('watch', $name !== null ? ['name' => $name] : ['prefix' => $prefix ?? ''], null, $told(...));
        return new Watch($request->connection, $request->connection->finish($request)['watch']);
    }

    /** The daemon's name for this client; others transfer locks to it. */
    public function session(): string
    {
        return $this->connected()->session;
    }

    /** From now on others may hand over locks; the function gets each, held. */
    public function acceptTransfers(callable $accept): void
    {
        $this->accept = $accept(...);
        $connection = $this->connected();
        $connection->accept = $this->accept;
        $connection->call('initialize', ['accept_transfers' => true]);
    }

    /** Gives everything back. The client may be used again. */
    public function close(): void
    {
        $connection = $this->connection;
        $this->connection = null;
        if ($connection !== null && !$connection->isForeign()) {
            $connection->ended();
        }
    }

    /** For loops of the program's own: what to wait for. */
    public function stream(): mixed
    {
        return $this->connection === null || $this->connection->hasEnded ? null : $this->connection->stream;
    }

    /** For how many seconds at most to wait; null: without limit. */
    public function pause(): ?float
    {
        return $this->connection?->tick();
    }

    /** Reads what has come. */
    public function pump(): void
    {
        $this->connection?->pump(0);
    }

    private function connected(): Connection
    {
        if ($this->connection !== null && $this->connection->isForeign()) {
            // In a forked child the connection is the parent's, which goes on using it.
            fclose($this->connection->stream);
            $this->connection = null;
        }
        $this->connection?->pump(0);
        if ($this->connection !== null && !$this->connection->hasEnded) {
            return $this->connection;
        }
        $connection = new Connection(socket_path($this->path), $this->patience);
        $connection->accept = $this->accept;
        $name = preg_replace('/[^ -~]/', '?', substr(basename($_SERVER['argv'][0] ?? ''), 0, 60)) ?: 'php';
        $params = ['client' => ['name' => $name], 'protocol' => 1, 'lifetime' => 'process'];
        if ($this->accept !== null) {
            $params['accept_transfers'] = true;
        }
        try {
            try {
                $connection->call('initialize', $params);
            } catch (Error $fault) {
                if (($fault->data['field'] ?? null) !== 'lifetime') {
                    throw $fault;
                }
                // The daemon cannot see this process, as from a container.
                unset($params['lifetime']);
                $connection->call('initialize', $params);
            }
        } catch (\Throwable $fault) {
            $connection->ended();
            throw $fault;
        }
        return $this->connection = $connection;
    }

    /** Sends a request, over a new connection where the daemon had closed the old one before. */
    private function start(string $method, array $params, ?Lock $lock = null, ?\Closure $told = null, ?Wait $wait = null): Request
    {
        $request = $this->connected()->start($method, $params, $lock, $told, $wait);
        if ($request->isUnsent) {
            while (!$request->connection->hasEnded) {
                $request->connection->pump(null);
            }
            $request = $this->connected()->start($method, $params, $lock, $told, $wait);
        }
        return $request;
    }
}

/** A request that is not answered yet. */
final class Request
{
    public float $sent;
    public bool $isAnswered = false;
    public bool $isAbandoned = false;
    public bool $isUnsent = false;
    public mixed $result = null;
    public ?Error $error = null;
    public ?\Closure $done = null;

    public function __construct(public readonly Connection $connection, public readonly int $id, public readonly string $method,
        public readonly array $params, public readonly ?Lock $lock, public readonly ?\Closure $told)
    {
        $this->sent = now();
    }
}

/** An acquire that was begun. */
final class Wait
{
    /** @internal set by the connection */
    public Request $request;

    public function __construct(public readonly Lock $lock, private readonly ?float $limit)
    {
    }

    public function __destruct()
    {
        if (isset($this->request) && !$this->request->isAnswered && !$this->request->connection->isForeign()) {
            $this->request->connection->abandon($this->request);
        }
    }

    /** Whether it is decided; `finish` does not wait then. */
    public function isDone(): bool
    {
        return $this->request->isAnswered;
    }

    /** The lock; or throws. */
    public function finish(): Lock
    {
        $this->request->connection->finish($this->request, $this->limit);
        return $this->lock;
    }

    /** Withdraws the wait, which ends as Cancelled. A lock that is granted meanwhile is given back. */
    public function cancel(): void
    {
        if (!$this->request->isAnswered) {
            $connection = $this->request->connection;
            $connection->abandon($this->request);
            $connection->settle($this->request, null, Error::of('cancelled', 'the wait was withdrawn'));
            $connection->tell();
        }
    }
}

/** A watch; it is told its events whenever something is read. */
final class Watch
{
    public function __construct(private readonly Connection $connection, private readonly int $number)
    {
    }

    /** No more events come. */
    public function close(): void
    {
        if (isset($this->connection->watches[$this->number])) {
            unset($this->connection->watches[$this->number]);
            $this->connection->call('unwatch', ['watch' => $this->number]);
        }
    }
}

/** A socket, and what waits for answers, holds and watches on it. */
final class Connection
{
    public mixed $stream;
    public bool $hasEnded = false;
    public string $session = '';
    public ?\Closure $accept = null;
    public array $watches = [];
    private readonly int $pid;
    private array $requests = [];
    private array $holdings = []; // "token name" => locks that share the hold, which this does not keep
    private int $whole = 0;
    private array $calls = [];
    private string $outgoing = '';
    private string $rest = '';
    private bool $isBroken = false;
    private int $last = 0;
    private ?int $leaseMs = null;
    private ?Error $fault = null;
    private ?Request $ping = null;
    private float $noPingBefore = 0;

    public function __construct(string $path, private readonly float $patience)
    {
        $this->pid = (int) getmypid();
        $deadline = now() + $patience;
        $before = self::sockets();
        while (($stream = @stream_socket_client("unix://$path", $code, $words, $patience)) === false) {
            if ($code === 13 || $code === 1) {
                throw Error::of('permission', "the permissions of $path keep this user out");
            }
            if ($code !== 11) {
                throw Error::of('no_daemon', "no daemon at $path: $words");
            }
            if (now() > $deadline) {
                throw Error::of('no_answer', "the daemon at $path does not take connections; it may hang");
            }
            usleep(50000); // Its queue is full; a Unix socket tells no other way when there is room.
        }
        stream_set_blocking($stream, false);
        stream_set_read_buffer($stream, 0);
        $this->stream = $stream;
        self::closeOnExec(array_diff(self::sockets(), $before));
    }

    /** @return string[] the numbers of this process' sockets */
    private static function sockets(): array
    {
        $all = array_filter(@scandir('/proc/self/fd') ?: [], 'is_numeric');
        return array_filter($all, fn ($number) => str_starts_with((string) @readlink("/proc/self/fd/$number"), 'socket:'));
    }

    /** PHP has no way of its own to keep a socket from the programs that it starts. Without FFI `lifetime` has to do. */
    private static function closeOnExec(array $numbers): void
    {
        if (!class_exists(\FFI::class)) {
            return;
        }
        try {
            static $libc = null;
            $libc ??= \FFI::cdef('int fcntl(int descriptor, int command, int flags);');
            foreach ($numbers as $number) {
                $libc->fcntl((int) $number, 2, 1); // F_SETFD, FD_CLOEXEC
            }
        } catch (\FFI\Exception) {
            // The administrator has turned it off.
        }
    }

    /** Whether this is a forked child, and the connection its parent's. */
    public function isForeign(): bool
    {
        return $this->pid !== getmypid();
    }

    private function whole(\Closure $code): mixed
    {
        return whole(function () use ($code) {
            $this->whole++;
            try {
                return $code();
            } finally {
                $this->whole--;
            }
        });
    }

    public function start(string $method, array $params, ?Lock $lock = null, ?\Closure $told = null, ?Wait $wait = null): Request
    {
        return $this->whole(fn () => $this->begin($method, $params, $lock, $told, $wait));
    }

    private function begin(string $method, array $params, ?Lock $lock, ?\Closure $told, ?Wait $wait): Request
    {
        $request = new Request($this, ++$this->last, $method, $params, $lock, $told);
        if ($wait !== null) {
            [$wait->request, $lock->connection] = [$request, $this];
        }
        if ($this->hasEnded) {
            $this->settle($request, null, $this->end());
            return $request;
        }
        $flags = JSON_UNESCAPED_UNICODE | JSON_UNESCAPED_SLASHES | JSON_INVALID_UTF8_SUBSTITUTE;
        // Without members it is an object, too.
        $line = json_encode(['id' => $request->id, 'method' => $method, 'params' => (object) $params], $flags);
        foreach ($params['names'] ?? [$params['name'] ?? ''] as $name) {
            if (preg_match('//u', (string) $name) !== 1) {
                $this->settle($request, null, Error::of('invalid_params', 'the name is not UTF-8'));
                return $request;
            }
        }
        if ($line === false || strlen($line) > LINE_BYTES_MAX) {
            $this->settle($request, null, Error::of('limit', 'the request is longer than a line of the daemon'));
            return $request;
        }
        $this->requests[$request->id] = $request;
        $this->outgoing .= $line . "\n";
        $this->flush();
        $request->isUnsent = $this->isBroken && $this->outgoing !== '';
        return $request;
    }

    private function flush(): void
    {
        while ($this->outgoing !== '' && !$this->isBroken) {
            error_clear_last();
            $sent = @fwrite($this->stream, $this->outgoing);
            if ($sent === false || $sent === 0) {
                // It tells of EAGAIN by 0 or false, without an error; PHP ignores SIGPIPE.
                $this->isBroken = str_contains(error_get_last()['message'] ?? '', 'errno=') && !str_contains(error_get_last()['message'], 'errno=11');
                return;
            }
            $this->outgoing = substr($this->outgoing, $sent);
        }
    }

    /** The result of a request that may take `wait` (null: without limit) and what the daemon needs to answer. */
    public function finish(Request $request, ?float $wait = 0): mixed
    {
        try {
            $limit = $wait === null ? null : $wait + $this->patience;
            while (!$this->isAnswered($request, $limit)) {
                // wait_ms has long passed; a daemon that waits for Redis is waited for, one that hangs is not.
                if (!$this->isAnswered($this->start('ping', []), $this->patience) && !$request->isAnswered) {
                    throw Error::of('no_answer', 'the daemon does not answer; it may hang');
                }
                $limit = $this->patience;
            }
        } catch (\Throwable $fault) {
            $this->abandon($request); // Also when a handler of a signal throws.
            throw $fault;
        }
        if ($request->error !== null) {
            throw $request->error;
        }
        return $request->result;
    }

    public function call(string $method, array $params): mixed
    {
        return $this->finish($this->start($method, $params));
    }

    private function isAnswered(Request $request, ?float $limit): bool
    {
        $deadline = $limit === null ? null : now() + $limit;
        while (!$request->isAnswered) {
            $left = $deadline === null ? null : $deadline - now();
            if ($left !== null && $left <= 0) {
                return false;
            }
            $this->pump($left);
        }
        return true;
    }

    /** Reads what has come, and waits up to `limit` seconds for something to come. */
    public function pump(?float $limit): void
    {
        if ($this->hasEnded) {
            return;
        }
        $pause = $this->tick();
        if ($pause !== null && ($limit === null || $pause < $limit)) {
            $limit = $pause;
        }
        $read = [$this->stream];
        $write = $this->outgoing !== '' && !$this->isBroken ? [$this->stream] : [];
        $except = [];
        $seconds = $limit === null ? null : (int) $limit;
        $ready = @stream_select($read, $write, $except, $seconds, $limit === null ? null : (int) (($limit - $seconds) * 1e6));
        if ($this->outgoing !== '') {
            $this->whole(fn () => $this->flush());
        }
        if ($ready && $read) {
            $this->whole(fn () => $this->read());
        }
        $this->tick();
        $this->tell();
    }

    private function read(): void
    {
        $data = @fread($this->stream, 65536);
        if ($data === false || $data === '') {
            if (feof($this->stream)) {
                $this->ended();
            }
            return;
        }
        $lines = explode("\n", $this->rest . $data);
        $this->rest = array_pop($lines);
        foreach ($lines as $line) {
            $message = json_decode($line, true);
            if (is_array($message) && !array_is_list($message)) {
                try {
                    $this->heard($message);
                } catch (\TypeError) {
                    // No message of this protocol.
                }
            }
        }
        if (strlen($this->rest) > UNENDED_BYTES_MAX) {
            $this->ended();
        }
    }

    /** Calls the user's code, when nothing here is in the middle of anything. */
    public function tell(): void
    {
        while ($this->whole === 0 && $this->calls) {
            array_shift($this->calls)();
        }
    }

    /** Nobody waits for the answer any more: a wait is withdrawn, and a lock that is granted all the same given back. */
    public function abandon(Request $request): void
    {
        $this->whole(function () use ($request) {
            if ($request->isAbandoned || $this->hasEnded) {
                return;
            }
            if ($request->isAnswered) {
                if ($request->method === 'acquire' && $request->error === null) {
                    $this->giveBack($request->lock);
                }
                return;
            }
            $request->isAbandoned = true;
            if ($request->method === 'acquire') {
                $this->outgoing .= json_encode(['method' => 'cancel', 'params' => ['id' => $request->id]]) . "\n";
                $this->flush();
            }
        });
    }

    public function giveBack(Lock $lock): void
    {
        $this->whole(function () use ($lock) {
            [$has, $lock->has] = [$lock->has, []];
            foreach ($has as $name => $token) {
                $this->forget($lock, (string) $name, $token);
                $this->start('release', ['name' => (string) $name, 'token' => $token]);
            }
            if ($lock->state === 'held') {
                $lock->state = 'released';
            }
        });
    }

    /** @return Lock[] those of a hold that the program still has */
    private function sharing(string $pair): array
    {
        return array_filter(array_map(fn ($one) => $one->get(), $this->holdings[$pair] ?? []));
    }

    /** Gives back the holds that no object has. */
    private function releaseOrphans(): void
    {
        foreach (array_keys($this->holdings) as $pair) {
            $pair = (string) $pair;
            if (!$this->sharing($pair)) {
                $this->whole(function () use ($pair) {
                    unset($this->holdings[$pair]);
                    [$token, $name] = explode(' ', $pair, 2);
                    $this->start('release', ['name' => $name, 'token' => (int) $token]);
                });
            }
        }
    }

    public function forget(Lock $lock, string $name, int $token): void
    {
        $rest = array_filter($this->holdings["$token $name"] ?? [], fn ($other) => !in_array($other->get(), [$lock, null], true));
        if ($rest) {
            $this->holdings["$token $name"] = $rest;
        } else {
            unset($this->holdings["$token $name"]);
        }
    }

    private function register(Lock $lock): void
    {
        foreach ($lock->has as $name => $token) {
            $this->holdings["$token $name"][] = \WeakReference::create($lock);
        }
    }

    private function heard(array $message): void
    {
        if (isset($message['method']) && !array_key_exists('id', $message)) {
            if (is_array($message['params'] ?? null)) {
                $this->told($message['method'], $message['params']);
            }
            return;
        }
        if (!isset($message['id']) && isset($message['error'])) {
            // It is about the connection, or about a line that the daemon could not read.
            $this->fault = Error::refusal($message['error']);
            return;
        }
        $request = $this->requests[$message['id'] ?? ''] ?? null;
        if ($request !== null) {
            unset($this->requests[$message['id']]);
            $this->settle($request, $message['result'] ?? null, isset($message['error']) ? Error::refusal($message['error']) : null);
        }
    }

    public function settle(Request $request, mixed $result, ?Error $fault): void
    {
        $isFine = match ($request->method) {
            'acquire' => is_array($result) && $this->tokensOf($request->lock, $result) !== null,
            'initialize' => is_array($result),
            'watch' => is_array($result) && is_int($result['watch'] ?? null),
            default => true,
        };
        if ($fault === null && !$isFine) {
            $fault = Error::of('protocol_violation', 'the daemon gave an answer that is none');
        }
        if ($fault === null) {
            if ($request->method === 'acquire') {
                $this->granted($request, $result);
            } elseif ($request->method === 'release' && $request->lock !== null) {
                $this->forget($request->lock, $request->params['name'], $request->params['token']);
            } elseif ($request->method === 'initialize') {
                $this->session = is_scalar($result['session'] ?? '') ? (string) ($result['session'] ?? '') : '';
                $this->leaseMs = timeOf($result['lease_ms'] ?? null);
            } elseif ($request->method === 'watch') {
                $this->watches[$result['watch']] = $request->told;
            }
        }
        if ($request->isAnswered) {
            return;
        }
        [$request->result, $request->error, $request->isAnswered] = [$result, $fault, true];
        if ($request === $this->ping) {
            $this->ping = null;
            if ($fault === null) {
                $this->pingAnswered($request);
            }
        }
        if ($request->done !== null) {
            $this->calls[] = $request->done;
        }
    }

    /** The tokens by name; null where a name has none. */
    private function tokensOf(Lock $lock, array $result): ?array
    {
        $locks = array_key_exists('locks', $result) ? $result['locks'] : [['name' => $lock->names[0], 'token' => $result['token'] ?? null]];
        $told = [];
        foreach (is_array($locks) ? $locks : [] as $one) {
            if (is_array($one) && is_string($one['name'] ?? null) && is_int($one['token'] ?? null)) {
                $told[$one['name']] = $one['token'];
            }
        }
        $tokens = array_intersect_key($told, array_flip($lock->names));
        return count($tokens) === count(array_flip($lock->names)) ? $tokens : null;
    }

    private function granted(Request $request, array $result): void
    {
        $lock = $request->lock;
        $lock->tokens = $lock->has = $this->tokensOf($lock, $result);
        [$lock->mode, $lock->state] = [(string) ($result['mode'] ?? ''), 'held'];
        $valid = timeOf($result['valid_ms'] ?? null);
        if ($valid !== null) {
            // From the grant on, however late this is read: the wait began at the daemon after the sending.
            $lock->span = $valid / 1000;
            $lock->deadline = $request->sent + (timeOf($result['waited_ms'] ?? null) ?? 0) / 1000 + $lock->span;
        }
        $this->register($lock);
        if ($request->isAbandoned) {
            $this->giveBack($lock);
        }
    }

    private function told(string $method, array $params): void
    {
        foreach (['name', 'token', 'id', 'watch'] as $key) {
            // Of the members that are used here none may be another thing than a word or a number.
            if (isset($params[$key]) && !is_string($params[$key]) && !is_int($params[$key])) {
                return;
            }
        }
        $pair = ($params['token'] ?? '') . ' ' . ($params['name'] ?? '');
        if ($method === 'lost') {
            $sharing = $this->sharing($pair);
            unset($this->holdings[$pair]);
            foreach ($sharing as $lock) {
                $this->lose($lock, new Loss($params['name'], $params['token'], (string) ($params['reason'] ?? ''),
                    (int) ($params['grace_ms'] ?? 0), $params['detail'] ?? null));
            }
        } elseif ($method === 'waiting') {
            $call = ($this->requests[$params['id'] ?? ''] ?? null)?->lock?->onWaiting;
            if ($call !== null) {
                $this->calls[] = fn () => $call($params);
            }
        } elseif ($method === 'contended') {
            foreach ($this->sharing($pair) as $lock) {
                if ($lock->onContended !== null) {
                    $this->calls[] = fn () => ($lock->onContended)($params['waiters']);
                }
            }
        } elseif ($method === 'transferred' && $this->accept !== null) {
            $lock = new Lock([$params['name']]);
            $lock->tokens = $lock->has = [$params['name'] => $params['token']];
            [$lock->mode, $lock->state, $lock->connection] = [$params['mode'] ?? '', 'held', $this];
            if ($this->leaseMs !== null) {
                // Nothing is known of how long it is good: that is asked at once.
                [$lock->span, $lock->deadline] = [$this->leaseMs / 1000, now()];
            }
            $this->register($lock);
            $accept = $this->accept;
            $this->calls[] = fn () => $accept($lock);
        } elseif ($method === 'event') {
            $call = $this->watches[$params['watch'] ?? ''] ?? null;
            if ($call !== null) {
                $this->calls[] = fn () => $call($params);
            }
        } elseif ($method === 'backend' || $method === 'missed') {
            $this->tellWatches(['kind' => $method] + $params);
        }
    }

    private function tellWatches(array $event): void
    {
        foreach ($this->watches as $call) {
            $this->calls[] = fn () => $call($event);
        }
    }

    private function lose(Lock $lock, Loss $loss): void
    {
        if ($loss->reason !== 'lease_expired') {
            unset($lock->has[$loss->name]);
        }
        if ($lock->state === 'held') {
            [$lock->state, $lock->loss] = ['lost', $loss];
            // Looked up when it is called: of a lock that was transferred it may be set only then.
            $this->calls[] = fn () => $lock->onLost !== null ? ($lock->onLost)($loss) : null;
        }
    }

    private function end(): Error
    {
        return $this->fault ?? Error::of('connection_lost', 'the connection to the daemon has ended');
    }

    /** The connection has ended: whoever waits is told, and what was held is lost. */
    public function ended(): void
    {
        if ($this->hasEnded) {
            return;
        }
        $this->hasEnded = $this->isBroken = true;
        // One end of the connection is never closed alone.
        fclose($this->stream);
        foreach (array_keys($this->holdings) as $pair) {
            [$token, $name] = explode(' ', $pair, 2);
            foreach ($this->sharing($pair) as $lock) {
                $this->lose($lock, new Loss($name, (int) $token, 'connection_ended'));
            }
        }
        $this->holdings = [];
        $this->tellWatches(['kind' => 'ended']);
        $this->watches = [];
        [$requests, $this->requests] = [$this->requests, []];
        foreach ($requests as $request) {
            $this->settle($request, null, $this->end());
        }
        $this->tell();
    }

    /** @return Lock[] */
    private function timed(): array
    {
        $timed = [];
        foreach (array_keys($this->holdings) as $pair) {
            foreach ($this->sharing($pair) as $lock) {
                if ($lock->state === 'held' && $lock->deadline !== null) {
                    $timed[] = $lock;
                }
            }
        }
        return $timed;
    }

    private function pingAnswered(Request $ping): void
    {
        $valid = is_array($ping->result) ? timeOf($ping->result['valid_ms'] ?? null) : null;
        $this->noPingBefore = now() + 0.1;
        foreach ($this->timed() as $lock) {
            if ($valid !== null) {
                // This counts for all that was held when it was answered, from when it was asked.
                $lock->span = $valid / 1000;
                $lock->deadline = max($lock->deadline, $ping->sent + $lock->span);
            } elseif (count($this->holdings) > HOLDS_TOLD_MAX) {
                $lock->deadline = null;
            }
        }
    }

    /** Asks how long holds are good before that time is over, and finds those whose time is. Gives the seconds until then. */
    public function tick(): ?float
    {
        if ($this->hasEnded) {
            return null;
        }
        $this->releaseOrphans();
        $timed = $this->timed();
        if (!$timed) {
            return null;
        }
        $time = now();
        $askAt = max(min(array_map(fn ($lock) => $lock->deadline - $lock->span / 2, $timed)), $this->noPingBefore);
        if ($this->ping === null) {
            if ($time < $askAt) {
                return $askAt - $time;
            }
            $this->ping = $this->start('ping', []);
        }
        // A process that was stopped itself asks before it judges.
        $sent = $this->ping?->sent ?? $time;
        $judgeAt = fn ($lock) => max($lock->deadline, $sent + min(1, $lock->span / 4));
        foreach ($timed as $lock) {
            if ($time >= $judgeAt($lock)) {
                $name = (string) (array_key_first($lock->has) ?? $lock->names[0]);
                $this->lose($lock, new Loss($name, $lock->tokens[$name], 'lease_expired'));
                $this->giveBack($lock);
            }
        }
        $times = array_map($judgeAt, $this->timed());
        return $times ? max(0, min($times) - $time) : null;
    }
}

/** A lock, or several that were taken all or none. */
final class Lock
{
    // These belong to the connection.
    public string $state = 'waiting';
    public ?Connection $connection = null;
    public array $tokens = [];
    public array $has = [];
    public ?float $deadline = null;
    public float $span = 0;
    public ?Loss $loss = null;
    public ?\Closure $onLost = null;
    public ?\Closure $onWaiting = null;
    public ?\Closure $onContended = null;
    /** exclusive, shared or permit. */
    public string $mode = '';

    /** @param string[] $names */
    public function __construct(public readonly array $names)
    {
    }

    /** What the program has no more is given back; also where a handler of a signal throws when it was just granted. */
    public function __destruct()
    {
        if ($this->has && $this->connection !== null && !$this->connection->hasEnded && !$this->connection->isForeign()) {
            $this->connection->giveBack($this);
        }
    }

    /** Whether it is held, by all that the daemon has said; no longer than it is good without an answer of the daemon. */
    public function held(): bool
    {
        if ($this->connection === null || $this->connection->isForeign()) {
            return false;
        }
        $this->connection->pump(0);
        // Where the time is over somebody else may hold it: it is held if the daemon says so again, and lost if it says nothing.
        $end = now() + 2;
        while (!$this->connection->hasEnded && $this->isOver() && now() < $end) {
            $this->connection->pump(0.1);
        }
        return $this->state === 'held' && !$this->isOver();
    }

    private function isOver(): bool
    {
        return $this->state === 'held' && $this->deadline !== null && $this->deadline <= now();
    }

    /**
     * Throws Lost if the lock was lost, NotHeld if it is not held, and Unavailable where its time is over and the daemon does not
     * say that it is still held.
     */
    public function check(): void
    {
        $held = $this->held();
        if ($this->loss !== null) {
            throw Error::lost($this->loss);
        }
        if (!$held && $this->connection !== null && !$this->connection->isForeign() && $this->isOver()) {
            throw Error::of('no_answer', "the time of lock {$this->names[0]} is over, and the daemon does not say that it is still held");
        }
        if (!$held) {
            throw Error::of('not_held', "lock {$this->names[0]} is not held here");
        }
    }

    /** The fencing token, of the first or of another name: send it along with every write. */
    public function token(?string $name = null): int
    {
        $this->check();
        return $this->tokens[$name ?? $this->names[0]];
    }

    /** For how many seconds from now the hold is good for certain; null: it does not end by itself. */
    public function valid(): ?float
    {
        if (!$this->held()) {
            return 0;
        }
        return $this->deadline === null ? null : max(0, $this->deadline - now());
    }

    /** Whether there is something to give back. */
    public function isOpen(): bool
    {
        return !$this->connection->isForeign() && in_array($this->state, ['held', 'lost'], true);
    }

    /** Gives the lock back. Throws Lost if it was lost before. */
    public function release(): void
    {
        if (!$this->isOpen()) {
            throw Error::of('not_held', "lock {$this->names[0]} is not held here");
        }
        $failure = null;
        if (!$this->connection->hasEnded) {
            $has = $requests = [];
            // Once, whatever comes between: an owner who has it twice has it under one token.
            whole(function () use (&$has, &$requests) {
                [$has, $this->has] = [$this->has, []];
                foreach ($has as $name => $token) {
                    $requests[] = $this->connection->start('release', ['name' => (string) $name, 'token' => $token], $this);
                }
            });
            foreach ($requests as $request) {
                try {
                    $this->connection->finish($request);
                } catch (Error $fault) {
                    $failure ??= $fault;
                }
            }
            foreach ($has as $name => $token) {
                $this->connection->forget($this, (string) $name, $token);
            }
        }
        $this->state = 'released';
        if ($this->loss !== null) {
            throw Error::lost($this->loss);
        }
        if ($failure !== null && $failure->reason === 'lost') {
            $name = $this->names[0];
            throw Error::lost(new Loss($name, $this->tokens[$name], (string) ($failure->data['lost'] ?? '')));
        }
        if ($failure !== null) {
            throw $failure;
        }
    }

    /** Shares from now on what was held alone. */
    public function downgrade(): void
    {
        $this->ofOne('downgrade', []);
        $this->mode = 'shared';
    }

    /** Sets anew after how many seconds from now the hold ends; null: it does not. */
    public function extend(?float $maxHold): void
    {
        $this->ofOne('extend', ['max_hold_ms' => $maxHold === null ? null : max(1, milliseconds($maxHold))]);
    }

    /** Hands the lock to another session of this host, which must have asked for it. */
    public function transfer(string $session): void
    {
        $this->ofOne('transfer', ['session' => $session]);
        $this->connection->forget($this, $this->names[0], $this->tokens[$this->names[0]]);
        [$this->state, $this->has] = ['released', []];
    }

    private function ofOne(string $method, array $more): void
    {
        $this->check();
        if (count($this->names) !== 1) {
            throw Error::of('invalid_params', "$method is for one lock at a time");
        }
        try {
            $this->connection->call($method, ['name' => $this->names[0], 'token' => $this->tokens[$this->names[0]]] + $more);
        } catch (Error $fault) {
            throw $this->loss !== null ? Error::lost($this->loss) : $fault;
        }
    }
}
