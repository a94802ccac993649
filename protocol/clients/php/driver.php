#!/usr/bin/env php
<?php
// The conformance suite's driver. See protocol/conformance/README.md. Its workers are owners on one connection: a wait is
// begun, and the program goes on reading commands.
declare(strict_types=1);

require __DIR__ . '/src/Sidelock.php';

use Sidelock\Client;
use Sidelock\Lock;

class BodyFailed extends Exception {}

final class Driver
{
    private Client $client;
    private array $locks = [];
    private array $waits = [];
    private array $leaves = [];
    private array $watches = [];
    private string $input = '';

    public function __construct()
    {
        $this->client = new Client();
        stream_set_blocking(STDIN, false);
        stream_set_read_buffer(STDIN, 0);
    }

    public static function say(string $head, array $fields = []): void
    {
        foreach ($fields as $key => $value) {
            $head .= " $key=" . rawurlencode((string) $value);
        }
        fwrite(STDOUT, $head . "\n");
    }

    private static function onLost(string $label): Closure
    {
        return fn ($loss) => self::say('event lost', ['lock' => $label, 'name' => $loss->name, 'token' => $loss->token,
            'reason' => $loss->reason, 'grace_ms' => $loss->graceMs]);
    }

    private static function options(array $args): array
    {
        $label = $args['lock'];
        $made = ['owner' => 'worker-' . ($args['worker'] ?? '0'), 'onLost' => self::onLost($label), 'shared' => ($args['mode'] ?? '') === 'shared',
            'meta' => isset($args['meta_bytes']) ? str_repeat('x', (int) $args['meta_bytes']) : $args['meta'] ?? null];
        foreach (['wait' => 'wait', 'max_hold' => 'maxHold'] as $key => $name) {
            if (isset($args[$key])) {
                $made[$name] = $args[$key] / 1000;
            }
        }
        foreach (['permits', 'replicas'] as $key) {
            if (isset($args[$key])) {
                $made[$key] = (int) $args[$key];
            }
        }
        if (isset($args['durability'])) {
            $made['durability'] = $args['durability'];
        }
        if (isset($args['progress'])) {
            $made['onWaiting'] = fn ($told) => self::say('event waiting', ['lock' => $label, 'position' => $told['position']]);
            $made['onContended'] = fn ($waiters) => self::say('event contended', ['lock' => $label, 'waiters' => $waiters]);
        }
        return $made;
    }

    private static function valid(Lock $lock): string
    {
        $valid = $lock->valid();
        return $valid === null ? 'none' : (string) (int) ($valid * 1000);
    }

    private function run(string $verb, array $args): array
    {
        $label = $args['lock'] ?? '';
        $lock = $this->locks[$label] ?? null;
        switch ($verb) {
            case 'path':
                return ['path' => Sidelock\socket_path($this->client->path)];
            case 'open':
                $this->client = new Client($args['path'] ?? null, ($args['answer_ms'] ?? 5000) / 1000);
                break;
            case 'close':
                $this->client->close();
                break;
            case 'session':
                return ['session' => $this->client->session()];
            case 'scope':
                $this->client->with($args['names'], function (Lock $lock) use ($label) {
                    if ($lock->held()) {
                        self::say('event entered', ['lock' => $label, 'token' => $lock->token()]);
                    }
                    while (!isset($this->leaves[$label])) {
                        $this->turn();
                    }
                    if ($this->leaves[$label] === 'fail') {
                        throw new BodyFailed();
                    }
                }, ...self::options($args));
                break;
            case 'leave':
                $this->leaves[$label] = isset($args['fail']) ? 'fail' : 'leave';
                break;
            case 'release':
                $lock->release();
                break;
            case 'held':
                if ($lock === null) {
                    return ['held' => 0];
                }
                $fields = ['held' => (int) $lock->held(), 'valid_ms' => self::valid($lock)];
                return $lock->loss === null ? $fields : $fields + ['lost' => $lock->loss->reason];
            case 'cancel':
                $this->waits[$args['target']]->cancel();
                break;
            case 'downgrade':
                $lock->downgrade();
                break;
            case 'extend':
                $lock->extend($args['max_hold'] === 'none' ? null : $args['max_hold'] / 1000);
                break;
            case 'transfer':
                $lock->transfer($args['session']);
                break;
            case 'accept':
                $this->client->acceptTransfers(function (Lock $lock) use ($label) {
                    $this->locks[$label] = $lock;
                    $lock->onLost = self::onLost($label);
                    self::say('event transferred', ['lock' => $label, 'name' => $lock->names[0], 'token' => current($lock->tokens)]);
                });
                break;
            case 'watch':
                $told = fn ($event) => self::say('event watch', ['watch' => $args['watch']] + array_filter($event, 'is_scalar'));
                $this->watches[$args['watch']] = $this->client->watch($told, $args['names'][0] ?? null, $args['prefix'] ?? null);
                break;
            case 'unwatch':
                $this->watches[$args['watch']]->close();
                break;
            case 'cycles':
                return $this->cycles($args);
            case 'spawn':
                $process = proc_open(['sleep', '60'], [['file', '/dev/null', 'r'], ['file', '/dev/null', 'w']], $pipes);
                $this->waits['spawned'] = $process;
                return ['pid' => proc_get_status($process)['pid']];
            case 'fork':
                return $this->fork($lock, $args);
        }
        return [];
    }

    /** So many workers, each an owner on the one connection. */
    private function cycles(array $args): array
    {
        [$last, $rising, $left, $ready] = [0, 1, (int) $args['workers'], []];
        file_put_contents($args['file'], '0');
        $begin = function (int $worker, int $cycle) use (&$begin, &$last, &$rising, &$left, &$ready, $args) {
            if ($cycle === (int) $args['cycles']) {
                $left--;
                return;
            }
            $wait = $this->client->begin($args['names'], owner: "cycle-$worker");
            $done = function () use ($wait, $worker, $cycle, &$last, &$rising, &$ready, $args) {
                $lock = $wait->finish();
                file_put_contents($args['file'], (string) (1 + (int) file_get_contents($args['file'])));
                $token = current($lock->tokens);
                $rising &= (int) ($token > $last);
                $last = $token;
                $lock->release();
                $ready[] = [$worker, $cycle + 1];
            };
            if ($wait->isDone()) {
                $done();
            } else {
                $wait->request->done = $done;
            }
        };
        for ($worker = 1; $worker <= $args['workers']; $worker++) {
            $ready[] = [$worker, 0];
        }
        while ($left > 0) {
            while ($ready) {
                $begin(...array_shift($ready));
            }
            if ($left > 0) {
                $this->turn();
            }
        }
        return ['rising' => $rising];
    }

    private function fork(Lock $lock, array $args): array
    {
        $pid = pcntl_fork();
        if ($pid > 0) {
            return ['pid' => $pid];
        }
        $fields = ['held' => (int) $lock->held()];
        try {
            $lock->release();
        } catch (Sidelock\Error $fault) {
            $fields['release'] = $fault->reason;
        }
        $own = $this->client->acquire($args['names'], wait: 0);
        $fields['acquired'] = (int) $own->held();
        try {
            $again = $this->client->acquire($lock->names, wait: 0);
            $fields['again'] = 1;
        } catch (Sidelock\Busy) {
            $fields['again'] = 0;
        }
        self::say('event child', $fields);
        if (isset($args['exit'])) {
            exit(0);
        }
        while (true) {
            sleep(1000);
        }
    }

    private function failed(string $tag, Throwable $fault): void
    {
        if ($fault instanceof BodyFailed) {
            self::say("$tag error body");
            return;
        }
        if (!$fault instanceof Sidelock\Error) {
            throw $fault;
        }
        $known = ['Busy' => 'busy', 'Timeout' => 'timeout', 'Cancelled' => 'cancelled', 'Lost' => 'lost', 'Denied' => 'denied',
            'Unavailable' => 'unavailable', 'Deadlock' => 'deadlock', 'UnderReplicated' => 'under_replicated'];
        $type = $known[substr((string) strrchr(get_class($fault), '\\'), 1)] ?? 'error';
        $fields = ['type' => $type, 'message' => $fault->getMessage()];
        if ($type === 'busy' || $type === 'timeout') {
            $fields['holders'] = count($fault->holders());
        }
        if ($fault instanceof Sidelock\UnderReplicated) {
            $fields['acknowledged'] = $fault->acknowledged();
        }
        if ($type === 'lost') {
            $fields['lost'] = $fault->loss->reason;
        }
        self::say("$tag error " . ($fault->reason ?: 'unknown'), $fields);
    }

    /** Begins to wait; the answer is said when it is known. A wait with a limit is short, and is waited out. */
    private function acquire(string $tag, array $args): void
    {
        $wait = $this->waits[$tag] = $this->client->begin($args['names'], ...self::options($args));
        $done = function () use ($wait, $tag, $args) {
            try {
                $this->locks[$args['lock']] = $lock = $wait->finish();
                $tokens = array_map(fn ($name) => $lock->tokens[$name], $args['names']);
                self::say("$tag ok", ['token' => implode(',', $tokens), 'mode' => $lock->mode, 'valid_ms' => self::valid($lock)]);
            } catch (Throwable $fault) {
                $this->failed($tag, $fault);
            }
        };
        if ($wait->isDone() || isset($args['wait'])) {
            $done();
        } else {
            $wait->request->done = $done;
        }
    }

    private function answer(string $line): void
    {
        [$tag, $verb, $args] = [...explode(' ', $line), '', ''];
        $args = [];
        foreach (array_slice(explode(' ', $line), 2) as $word) {
            [$key, $value] = explode('=', $word, 2);
            if ($key === 'name') {
                $args['names'][] = rawurldecode($value);
            }
            $args[$key] = rawurldecode($value);
        }
        try {
            if ($verb === 'acquire') {
                $this->acquire($tag, $args);
            } else {
                self::say("$tag ok", $this->run($verb, $args));
            }
        } catch (Throwable $fault) {
            $this->failed($tag, $fault);
        }
    }

    /** Waits for a command, or for the daemon. */
    public function turn(): void
    {
        if (($end = strpos($this->input, "\n")) !== false) {
            $line = substr($this->input, 0, $end);
            $this->input = substr($this->input, $end + 1);
            $this->answer($line);
            return;
        }
        $pause = $this->client->pause();
        $read = array_values(array_filter([STDIN, $this->client->stream()]));
        [$write, $except] = [[], []];
        if (@stream_select($read, $write, $except, $pause === null ? null : (int) $pause,
            $pause === null ? null : (int) (fmod($pause, 1) * 1e6)) === false) {
            return;
        }
        $this->client->pump();
        if (in_array(STDIN, $read, true)) {
            $data = fread(STDIN, 65536);
            if (($data === '' || $data === false) && feof(STDIN)) {
                $this->client->close();
                exit(0);
            }
            $this->input .= $data;
        }
    }
}

pcntl_async_signals(true);
pcntl_signal(SIGUSR1, fn () => null);
Driver::say('driver 1', ['language' => 'php', 'features' => 'fork,connects']);
$driver = new Driver();
while (true) {
    $driver->turn();
}
