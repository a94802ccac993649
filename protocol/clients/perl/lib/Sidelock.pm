package Sidelock;

# Locks over processes and hosts, from the sidelockd of this host. One connection, without threads: what the daemon says
# is read whenever a lock is looked at, and while the program waits in here.

use strict;
use warnings;
use Errno qw(EACCES EAGAIN EINTR EPERM EWOULDBLOCK);
use File::Basename ();
use IO::Select;
use JSON::PP ();
use POSIX ();
use Scalar::Util ();
use Socket qw(AF_UNIX MSG_NOSIGNAL SOCK_STREAM pack_sockaddr_un);
use Time::HiRes ();

our $VERSION = '0.1.0';

use constant {
    LINE_BYTES_MAX => 65536,
    # Of a line that has not ended; what is longer comes from no daemon.
    UNENDED_BYTES_MAX => 1 << 20,
    HOLDS_TOLD_MAX => 64,    # Of more holds a ping does not say how long they are valid.
    CLOCK_BOOTTIME => 7,     # It goes on while the machine is suspended, and nobody sets it.
};

my $json = JSON::PP->new->utf8->canonical;
my $default;

my ($every, $none) = (POSIX::SigSet->new, POSIX::SigSet->new);
$every->fillset;
our $is_whole = 0;

# Does what must not be left in the middle: a handler of a signal, which may die, is called behind it.
sub whole {
    my ($code) = @_;
    return $code->() if $is_whole;
    my ($before, $result) = (POSIX::SigSet->new);
    POSIX::sigprocmask(POSIX::SIG_BLOCK(), $none, $before);
    my $lived = eval {
        POSIX::sigprocmask(POSIX::SIG_BLOCK(), $every);
        # Perl calls the handlers of what came before this at a condition, so at the latest at this one.
        if ($before) {
            local $is_whole = 1;
            $result = $code->();
        }
        1;
    };
    my $fault = $@;
    POSIX::sigprocmask(POSIX::SIG_SETMASK(), $before);
    die $fault unless $lived;    ## no critic
    return $result;
}

sub now { return Time::HiRes::clock_gettime(CLOCK_BOOTTIME) }

sub milliseconds {
    my ($seconds) = @_;
    # Infinite, or no number: no JSON, of which the daemon could not say which request it was.
    die Sidelock::Error->of('invalid_params', "no time in seconds: $seconds") unless $seconds * 0 == 0;
    my $whole = int($seconds * 1000);
    $whole++ if $whole < $seconds * 1000;
    return $whole < 0 ? 0 : $whole;
}

# Whether the daemon told a whole number.
sub is_whole { my ($value) = @_; return defined $value && !ref $value && $value =~ /^-?[0-9]{1,18}$/ }

# Milliseconds that the daemon told; undef where it is no time. They are used in sums: nothing of it is longer than a century.
sub time_of {
    my ($value) = @_;
    return if !is_whole($value);
    return $value < 0 ? 0 : $value > 3_162_240_000_000 ? 3_162_240_000_000 : $value;
}

# Where the daemon listens: what is given, $SIDELOCK_SOCKET, the user's own daemon if there is one, the system's.
sub socket_path {
    my ($explicit) = @_;
    for my $path ($explicit, $ENV{SIDELOCK_SOCKET}) {
        return $path if defined $path && $path ne '';
    }
    if (defined $ENV{XDG_RUNTIME_DIR} && $ENV{XDG_RUNTIME_DIR} ne '') {
        my $own = "$ENV{XDG_RUNTIME_DIR}/sidelock/sidelock.sock";
        return $own if -e $own || $! == EACCES;
    }
    return '/run/sidelock/sidelock.sock';
}

# patience: for how many seconds the daemon may leave a request unanswered, beyond what was to be waited.
sub new {
    my ($class, %options) = @_;
    return bless { path => $options{path}, patience => $options{patience} // 5 }, $class;
}

# The client that is used without one of its own.
sub client { return $default //= Sidelock->new }

# Sidelock::lock('orders', wait => 5): takes a lock and gives it.
sub lock    { my ($names, %options) = @_;        return client()->acquire($names, %options) }
sub with    { my ($names, @rest)    = @_;        return client()->with_lock($names, @rest) }

# Takes a lock, or with a list of names several, all or none. wait: seconds; undef: without limit; 0: a try. owner: the same
# owner gets at once what it holds. replicas: how many replicas of Redis have to have the lease, else UnderReplicated;
# durability: 'memory', or 'disk' for the primary and those replicas to have it there; undef: as the daemon's settings say.
sub acquire {
    my ($self, $names, %options) = @_;
    my $wait = $self->begin($names, %options);
    return $wait->finish;
}

# Runs code while the lock is held, with the lock as its argument, and gives what it gives.
sub with_lock {
    my ($self, $names, @rest) = @_;
    my $code = pop @rest;
    my $lock = $self->acquire($names, @rest);
    my @result;
    my $lived = eval { @result = $code->($lock); 1 };
    my $fault = $@;
    my $given = eval { $lock->release if $lock->{state} eq 'held' || $lock->{state} eq 'lost'; 1 };
    # What went wrong in the code is worth more than what followed from it.
    die $fault unless $lived;    ## no critic
    die $@     unless $given;    ## no critic
    return wantarray ? @result : $result[0];
}

my %is_option = map { $_ => 1 }
    qw(wait shared permits max_hold owner meta enforce replicas durability on_lost on_waiting on_contended);

# Begins to take a lock, for programs with a loop of their own: see the waits below, fileno, pause and pump.
sub begin {
    my ($self, $names, %options) = @_;
    # A name that is taken for another one would wait without limit, or exclude whom it should share with.
    for my $key (sort keys %options) {
        die Sidelock::Error->of('invalid_params', "there is no option $key") unless $is_option{$key};
    }
    my $lock   = Sidelock::Lock->new($self, $names, \%options);
    my %params = @{ $lock->{names} } == 1 ? (name => $lock->{names}[0]) : (names => $lock->{names});
    $params{mode}        = 'shared'                           if $options{shared};
    $params{permits}     = int $options{permits}              if defined $options{permits};
    $params{replicas}    = int $options{replicas}             if defined $options{replicas};
    $params{wait_ms}     = milliseconds($options{wait})       if defined $options{wait};
    $params{max_hold_ms} = milliseconds($options{max_hold}) || 1 if defined $options{max_hold};
    $params{progress}    = JSON::PP::true()                   if $options{on_waiting} || $options{on_contended};
    $params{on_lost}     = $options{enforce}                  if defined $options{enforce};
    for my $key (qw(owner meta durability)) { $params{$key} = "$options{$key}" if defined $options{$key} }
    # It has its request before that is sent: whatever happens then, what nobody waits for any more is withdrawn.
    my $wait = bless { lock => $lock, client => $self, limit => $options{wait}, pid => $$ }, 'Sidelock::Wait';
    $self->_start('acquire', \%params, lock => $lock, wait => $wait);
    return $wait;
}

# Any method of the protocol, and its result.
sub call {
    my ($self, $method, %params) = @_;
    my $request = $self->_start($method, \%params);
    return $request->{connection}->finish($request, 0);
}

# Events of a lock (name => …) or of all whose name begins alike (prefix => …): the code gets each, when it is read.
sub watch {
    my ($self, $key, $value, $code) = @_;
    my $request = $self->_start('watch', { $key => $value }, events => $code);
    my $number  = $request->{connection}->finish($request, 0)->{watch};
    return bless { connection => $request->{connection}, number => $number }, 'Sidelock::Watch';
}

# The daemon's name for this client; others transfer locks to it.
sub session { my ($self) = @_; return $self->_connected->{session} }

# From now on others may hand over locks; the code gets each, held.
sub accept_transfers {
    my ($self, $code) = @_;
    $self->{accept} = $code;
    my $connection = $self->_connected;
    $connection->{accept} = $code;
    $connection->call('initialize', { accept_transfers => JSON::PP::true() });
    return;
}

# Gives everything back. The client may be used again.
sub close {    ## no critic
    my ($self) = @_;
    my $connection = delete $self->{connection} or return;
    $connection->ended if $connection->{pid} == $$;
    return;
}

# For loops of the program's own: the descriptor to wait for, for how many seconds at most (undef: without limit), and the
# reading of what has come.
sub fileno { my ($self) = @_; my $c = $self->{connection}; return $c && !$c->{has_ended} ? CORE::fileno $c->{socket} : undef } ## no critic
sub pause  { my ($self) = @_; my $c = $self->{connection}; return $c && !$c->{has_ended} ? $c->tick : undef }
sub pump   { my ($self) = @_; my $c = $self->{connection}; $c->pump(0) if $c && !$c->{has_ended}; return }

sub _connected {
    my ($self) = @_;
    my $connection = $self->{connection};
    # In a forked child the connection is the parent's, which goes on using it.
    if ($connection && $connection->{pid} != $$) { CORE::close $connection->{socket}; undef $connection }
    $connection->pump(0) if $connection && !$connection->{has_ended};
    return $connection if $connection && !$connection->{has_ended};
    $connection = Sidelock::Connection->new(socket_path($self->{path}), $self->{patience});
    $connection->{accept} = $self->{accept};
    my %params = (
        client   => { name => (substr(File::Basename::basename($0), 0, 60) =~ s/[^ -~]/?/gr) || 'perl' },
        protocol => 1, lifetime => 'process',
    );
    $params{accept_transfers} = JSON::PP::true() if $self->{accept};
    my $fine = eval {
        eval { $connection->call('initialize', \%params); 1 } or do {
            my $fault = $@;
            die $fault unless ref $fault && ($fault->data->{field} // '') eq 'lifetime';    ## no critic
            # The daemon cannot see this process, as from a container.
            delete $params{lifetime};
            $connection->call('initialize', \%params);
        };
        1;
    };
    if (!$fine) { my $fault = $@; $connection->ended; die $fault }    ## no critic
    return $self->{connection} = $connection;
}

# Sends a request, over a new connection where the daemon had closed the old one before.
sub _start {
    my ($self, $method, $params, %more) = @_;
    my $request = $self->_connected->start($method, $params, %more);
    if ($request->{unsent}) {
        my $old = $request->{connection};
        $old->pump(undef) until $old->{has_ended};
        $request = $self->_connected->start($method, $params, %more);
    }
    return $request;
}

package Sidelock::Wait;

# An acquire that was begun.

use strict;
use warnings;

# Whether it is decided; finish does not wait then.
sub is_done { my ($self) = @_; return $self->{request}{answered} }

# The lock; or dies with the error.
sub finish {
    my ($self) = @_;
    $self->{request}{connection}->finish($self->{request}, $self->{limit});
    return $self->{lock};
}

sub DESTROY {
    my ($self) = @_;
    my $request = $self->{request};
    return if ${^GLOBAL_PHASE} eq 'DESTRUCT' || !$request || $request->{answered} || $self->{pid} != $$;
    local ($@, $!) = ($@, $!);
    $request->{connection}->abandon($request);
    return;
}

# Withdraws the wait, which ends as Cancelled. A lock that is granted meanwhile is given back.
sub cancel {
    my ($self) = @_;
    my $connection = $self->{request}{connection};
    return if $self->{request}{answered};
    $connection->abandon($self->{request});
    $connection->settle($self->{request}, undef, Sidelock::Error->of('cancelled', 'the wait was withdrawn'));
    return;
}

package Sidelock::Watch;

use strict;
use warnings;

# No more events come.
sub close {    ## no critic
    my ($self) = @_;
    delete $self->{connection}{watches}{ $self->{number} } or return;
    $self->{connection}->call('unwatch', { watch => $self->{number} });
    return;
}

package Sidelock::Connection;

use strict;
use warnings;

sub new {
    my ($class, $path, $patience) = @_;
    my $fail = sub { die Sidelock::Error->of(@_) };    ## no critic
    # Perl opens it with close-on-exec.
    socket my $socket, Socket::AF_UNIX, Socket::SOCK_STREAM, 0 or $fail->('no_daemon', "no socket: $!");
    $socket->blocking(0);
    my $address  = eval { Socket::pack_sockaddr_un($path) } or $fail->('no_daemon', "no path of a socket: $path");
    my $deadline = Sidelock::now() + $patience;
    until (connect $socket, $address) {
        next if $! == Errno::EINTR;
        $fail->('permission', "the permissions of $path keep this user out") if $! == Errno::EACCES || $! == Errno::EPERM;
        $fail->('no_daemon', "no daemon at $path: $!") unless $! == Errno::EAGAIN;
        $fail->('no_answer', "the daemon at $path does not take connections; it may hang") if Sidelock::now() > $deadline;
        Time::HiRes::sleep(0.05);    # Its queue is full; a Unix socket tells no other way when there is room.
    }
    return bless {
        socket => $socket, patience => $patience, pid => $$, requests => {}, holdings => {}, watches => {}, calls => [], last => 0,
        outgoing => '', rest => '', session => '', no_ping_before => 0,
    }, $class;
}

sub start {
    my ($self, @what) = @_;
    return Sidelock::whole(sub { return $self->_begin(@what) });
}

sub _begin {
    my ($self, $method, $params, %more) = @_;
    my $wait = delete $more{wait};
    my $request = { method => $method, params => $params, sent => Sidelock::now(), id => ++$self->{last}, connection => $self, %more };
    $more{lock}{connection} = $self if $wait;
    $wait->{request} = $request if $wait;
    if ($self->{has_ended}) { $self->settle($request, undef, $self->end_error); return $request }
    my $line = $json->encode({ id => $request->{id}, method => $method, params => $params });
    if (length $line > Sidelock::LINE_BYTES_MAX) {
        $self->settle($request, undef, Sidelock::Error->of('limit', 'the request is longer than a line of the daemon'));
        return $request;
    }
    $self->{requests}{ $request->{id} } = $request;
    $self->{outgoing} .= "$line\n";
    $self->flush;
    $request->{unsent} = $self->{is_broken} && $self->{outgoing} ne '';
    return $request;
}

sub flush {
    my ($self) = @_;
    while ($self->{outgoing} ne '' && !$self->{is_broken}) {
        my $sent = send $self->{socket}, $self->{outgoing}, Socket::MSG_NOSIGNAL;
        if (defined $sent) { substr $self->{outgoing}, 0, $sent, '' }
        elsif ($! == Errno::EINTR) { next }
        elsif ($! == Errno::EAGAIN) { return }
        else { $self->{is_broken} = 1 }    # What the daemon said before it closed the connection can still be read.
    }
    return;
}

# The result of a request that may take $wait (undef: without limit) and what the daemon needs to answer.
sub finish {
    my ($self, $request, $wait) = @_;
    my $lived = eval {
        my $limit = defined $wait ? $wait + $self->{patience} : undef;
        until ($self->is_answered($request, $limit)) {
            # wait_ms has long passed; a daemon that waits for Redis is waited for, one that hangs is not.
            my $ping = $self->start('ping', {});
            die Sidelock::Error->of('no_answer', 'the daemon does not answer; it may hang')    ## no critic
                unless $self->is_answered($ping, $self->{patience}) || $request->{answered};
            $limit = $self->{patience};
        }
        1;
    };
    if (!$lived) {
        # Also when a handler of a signal dies.
        my $fault = $@;
        $self->abandon($request);
        die $fault;    ## no critic
    }
    die $request->{error} if $request->{error};    ## no critic
    return $request->{result};
}

sub call { my ($self, $method, $params) = @_; return $self->finish($self->start($method, $params), 0) }

sub is_answered {
    my ($self, $request, $limit) = @_;
    my $deadline = defined $limit ? Sidelock::now() + $limit : undef;
    until ($request->{answered}) {
        my $left = defined $deadline ? $deadline - Sidelock::now() : undef;
        return 0 if defined $left && $left <= 0;
        $self->pump($left);
    }
    return 1;
}

# Reads what has come, and waits up to $limit seconds for something to come.
sub pump {
    my ($self, $limit) = @_;
    return if $self->{has_ended};
    my $pause = $self->tick;
    $limit = $pause if defined $pause && (!defined $limit || $pause < $limit);
    my $socket = IO::Select->new($self->{socket});
    my $ready = (IO::Select->select($socket, $self->{outgoing} ne '' && !$self->{is_broken} ? $socket : undef, undef, $limit))[0];
    Sidelock::whole(sub { return $self->flush }) if $self->{outgoing} ne '';
    Sidelock::whole(sub { return $self->_read }) if $ready && @$ready;
    $self->tick;
    $self->tell;
    return;
}

sub _read {
    my ($self) = @_;
    my $count = sysread $self->{socket}, $self->{rest}, 65536, length $self->{rest};
    if (!defined $count && ($! == Errno::EAGAIN || $! == Errno::EINTR)) { return }
    if (!$count) { $self->ended; return }
    while ((my $end = index $self->{rest}, "\n") >= 0) {
        my $message = eval { $json->decode(substr $self->{rest}, 0, $end) };
        substr $self->{rest}, 0, $end + 1, '';
        $self->heard($message) if ref $message eq 'HASH';
    }
    $self->ended if length $self->{rest} > Sidelock::UNENDED_BYTES_MAX;
    return;
}

# Calls the user's code, when nothing here is in the middle of anything.
sub tell {
    my ($self) = @_;
    while (!$Sidelock::is_whole && (my $call = shift @{ $self->{calls} })) { $call->() }
    return;
}

# Nobody waits for the answer any more: a wait is withdrawn, and a lock that is granted all the same given back.
sub abandon {
    my ($self, $request) = @_;
    return Sidelock::whole(sub {
        return if $request->{abandoned} || $self->{has_ended};
        if ($request->{answered}) {
            $self->give_back($request->{lock}) if $request->{method} eq 'acquire' && !$request->{error};
            return;
        }
        $request->{abandoned} = 1;
        if ($request->{method} eq 'acquire') {
            $self->{outgoing} .= $json->encode({ method => 'cancel', params => { id => $request->{id} } }) . "\n";
            $self->flush;
        }
        return;
    });
}

sub give_back {
    my ($self, $lock) = @_;
    return Sidelock::whole(sub {
        my %has = %{ $lock->{has} };
        $lock->{has} = {};
        for my $name (keys %has) {
            $self->forget($lock, $name, $has{$name});
            $self->start('release', { name => $name, token => $has{$name} });
        }
        $lock->{state} = 'released' if $lock->{state} eq 'held';
        return;
    });
}

sub forget {
    my ($self, $lock, $name, $token) = @_;
    my $pair = "$token $name";
    my @rest = grep { defined && $_ != $lock } @{ $self->{holdings}{$pair} // [] };
    Scalar::Util::weaken($_) for @rest;
    if (@rest) { $self->{holdings}{$pair} = \@rest }
    else       { delete $self->{holdings}{$pair} }
    return;
}

# Without keeping it: a lock that the program has no more gives itself back.
sub register {
    my ($self, $lock) = @_;
    for my $name (keys %{ $lock->{has} }) {
        my $sharing = $self->{holdings}{"$lock->{has}{$name} $name"} //= [];
        push @$sharing, $lock;
        Scalar::Util::weaken($sharing->[-1]);
    }
    return;
}

sub heard {
    my ($self, $message) = @_;
    if (exists $message->{method} && !exists $message->{id}) {
        $self->told($message->{method}, $message->{params}) if ref $message->{params} eq 'HASH';
        return;
    }
    # Without an id it is about the connection, or about a line that the daemon could not read.
    $self->{fault} = Sidelock::Error->refusal($message->{error}) if !defined $message->{id} && $message->{error};
    my $request = defined $message->{id} ? delete $self->{requests}{ $message->{id} } : undef;
    $self->settle($request, $message->{result}, $message->{error} ? Sidelock::Error->refusal($message->{error}) : undef) if $request;
    return;
}

sub settle {
    my ($self, $request, $result, $fault) = @_;
    my $method = $request->{method};
    my $is_fine = $method !~ /^(?:acquire|initialize|watch)$/ || ref $result eq 'HASH';
    $is_fine &&= $self->tokens_of($request, $result) if $method eq 'acquire';
    $is_fine &&= Sidelock::is_whole($result->{watch}) if $method eq 'watch';
    $fault = Sidelock::Error->of('protocol_violation', 'the daemon gave an answer that is none') if !$fault && !$is_fine;
    if (!$fault) {
        if ($method eq 'acquire') { $self->granted($request, $result) }
        elsif ($method eq 'release' && $request->{lock}) {
            $self->forget($request->{lock}, $request->{params}{name}, $request->{params}{token});
        }
        elsif ($method eq 'initialize') { @$self{qw(session lease_ms)} = ($result->{session} // '', Sidelock::time_of($result->{lease_ms})) }
        elsif ($method eq 'watch') { $self->{watches}{ $result->{watch} } = $request->{events} }
    }
    return if $request->{answered};
    @$request{qw(result error answered)} = ($result, $fault, 1);
    if ($self->{ping} && $self->{ping} == $request) {
        delete $self->{ping};
        $self->ping_answered($request) unless $fault;
    }
    push @{ $self->{calls} }, $request->{done} if $request->{done};
    return;
}

# The tokens by name, where each name has one.
sub tokens_of {
    my ($self, $request, $result) = @_;
    my $names = $request->{lock}{names};
    my $locks = exists $result->{locks} ? $result->{locks} : [{ name => $names->[0], token => $result->{token} }];
    return if ref $locks ne 'ARRAY';
    my %tokens = map { ($_->{name} // '') => $_->{token} } grep { ref eq 'HASH' } @$locks;
    return if grep { !Sidelock::is_whole($tokens{$_}) } @$names;
    return { map { $_ => $tokens{$_} } @$names };
}

sub granted {
    my ($self, $request, $result) = @_;
    my $lock = $request->{lock};
    $lock->{tokens} = $self->tokens_of($request, $result);
    $lock->{has}    = { %{ $lock->{tokens} } };
    @$lock{qw(mode state)} = ($result->{mode}, 'held');
    my $valid = Sidelock::time_of($result->{valid_ms});
    if (defined $valid) {
        # From the grant on, however late this is read: the wait began at the daemon after the sending.
        $lock->{span}     = $valid / 1000;
        $lock->{deadline} = $request->{sent} + (Sidelock::time_of($result->{waited_ms}) // 0) / 1000 + $lock->{span};
    }
    $self->register($lock);
    $self->give_back($lock) if $request->{abandoned};
    return;
}

sub told {
    my ($self, $method, $params) = @_;
    # Of the members that are used here none may be another thing than a word or a number.
    return if grep { ref $params->{$_} } qw(name token id watch);
    my $pair = join ' ', map { $_ // '' } @$params{qw(token name)};
    if ($method eq 'lost') {
        my $sharing = delete $self->{holdings}{$pair};
        $self->lose($_, { grace_ms => 0, %$params }) for grep { defined } @{ $sharing // [] };
    }
    elsif ($method eq 'waiting') {
        my $request = $self->{requests}{ $params->{id} // '' } or return;
        my $call = $request->{lock} && $request->{lock}{options}{on_waiting};
        push @{ $self->{calls} }, sub { $call->($params) } if $call;
    }
    elsif ($method eq 'contended') {
        for my $lock (grep { defined } @{ $self->{holdings}{$pair} // [] }) {
            my $call = $lock->{options}{on_contended} or next;
            push @{ $self->{calls} }, sub { $call->($params->{waiters}) };
        }
    }
    elsif ($method eq 'transferred' && $self->{accept}) {
        my $lock = Sidelock::Lock->new(undef, $params->{name}, {});
        $lock->{tokens} = { $params->{name} => $params->{token} };
        $lock->{has}    = { %{ $lock->{tokens} } };
        @$lock{qw(mode state connection)} = ($params->{mode}, 'held', $self);
        # Nothing is known of how long it is good: that is asked at once.
        @$lock{qw(span deadline)} = ($self->{lease_ms} / 1000, Sidelock::now()) if defined $self->{lease_ms};
        $self->register($lock);
        my $accept = $self->{accept};
        push @{ $self->{calls} }, sub { $accept->($lock) };
    }
    elsif ($method eq 'event') {
        my $call = $self->{watches}{ $params->{watch} // '' };
        push @{ $self->{calls} }, sub { $call->($params) } if $call;
    }
    elsif ($method eq 'backend' || $method eq 'missed') { $self->tell_watches({ %$params, kind => $method }) }
    return;
}

sub tell_watches {
    my ($self, $event) = @_;
    for my $call (values %{ $self->{watches} }) { push @{ $self->{calls} }, sub { $call->($event) } }
    return;
}

sub lose {
    my ($self, $lock, $loss) = @_;
    delete $lock->{has}{ $loss->{name} } unless $loss->{reason} eq 'lease_expired';
    return unless $lock->{state} eq 'held';
    @$lock{qw(state loss)} = ('lost', $loss);
    # Looked up when it is called: of a lock that was transferred it may be set only then.
    push @{ $self->{calls} }, sub { $lock->{options}{on_lost}->($loss) if $lock->{options}{on_lost} };
    return;
}

sub end_error {
    my ($self) = @_;
    return $self->{fault} // Sidelock::Error->of('connection_lost', 'the connection to the daemon has ended');
}

# The connection has ended: whoever waits is told, and what was held is lost.
sub ended {
    my ($self) = @_;
    return if $self->{has_ended};
    $self->{has_ended} = $self->{is_broken} = 1;
    CORE::close $self->{socket};
    for my $pair (keys %{ $self->{holdings} }) {
        my ($token, $name) = split / /, $pair, 2;
        $self->lose($_, { name => $name, token => $token, reason => 'connection_ended', grace_ms => 0 })
            for grep { defined } @{ $self->{holdings}{$pair} };
    }
    $self->{holdings} = {};
    $self->tell_watches({ kind => 'ended' });
    $self->{watches} = {};
    my @requests = values %{ $self->{requests} };
    $self->{requests} = {};
    $self->settle($_, undef, $self->end_error) for @requests;
    $self->tell;
    return;
}

sub timed {
    my ($self) = @_;
    return grep { defined && $_->{state} eq 'held' && defined $_->{deadline} } map { @$_ } values %{ $self->{holdings} };
}

sub ping_answered {
    my ($self, $ping) = @_;
    my $valid = ref $ping->{result} eq 'HASH' ? Sidelock::time_of($ping->{result}{valid_ms}) : undef;
    $self->{no_ping_before} = Sidelock::now() + 0.1;
    for my $lock ($self->timed) {
        if (defined $valid) {
            # This counts for all that was held when it was answered, from when it was asked.
            $lock->{span} = $valid / 1000;
            my $until = $ping->{sent} + $lock->{span};
            $lock->{deadline} = $until if $until > $lock->{deadline};
        }
        elsif (keys %{ $self->{holdings} } > Sidelock::HOLDS_TOLD_MAX) { $lock->{deadline} = undef }
    }
    return;
}

# Holds that no object has.
sub _release_orphans {
    my ($self, @pairs) = @_;
    for my $pair (@pairs) {
        my ($token, $name) = split / /, $pair, 2;
        delete $self->{holdings}{$pair};
        $self->start('release', { name => $name, token => $token + 0 });
    }
    return;
}

sub _max { my ($one, $other) = @_; return $one > $other ? $one : $other }

# Asks how long holds are good before that time is over, and finds those whose time is. Gives the seconds until then.
sub tick {
    my ($self) = @_;
    return if $self->{has_ended};
    my @orphans = grep { !grep { defined } @{ $self->{holdings}{$_} } } keys %{ $self->{holdings} };
    Sidelock::whole(sub { return $self->_release_orphans(@orphans) }) if @orphans;
    my @timed = $self->timed or return;
    my $time = Sidelock::now();
    my ($ask_at) = sort { $a <=> $b } map { $_->{deadline} - $_->{span} / 2 } @timed;
    $ask_at = _max($ask_at, $self->{no_ping_before});
    if (!$self->{ping}) {
        return $ask_at - $time if $time < $ask_at;
        $self->{ping} = $self->start('ping', {});
    }
    # A process that was stopped itself asks before it judges.
    my $sent     = $self->{ping} ? $self->{ping}{sent} : $time;
    my $judge_at = sub { return _max($_[0]{deadline}, $sent + ($_[0]{span} < 4 ? $_[0]{span} / 4 : 1)) };
    for my $lock (grep { $time >= $judge_at->($_) } @timed) {
        my ($name) = (keys %{ $lock->{has} }, @{ $lock->{names} });
        $self->lose($lock, { name => $name, token => $lock->{tokens}{$name}, reason => 'lease_expired', grace_ms => 0 });
        $self->give_back($lock);
    }
    my ($next) = sort { $a <=> $b } map { $judge_at->($_) } $self->timed;
    return defined $next ? _max($next - $time, 0) : undef;
}

package Sidelock::Lock;

# A lock, or several that were taken all or none.

use strict;
use warnings;

sub new {
    my ($class, $client, $names, $options) = @_;
    return bless {
        client => $client, names => ref $names ? [map {"$_"} @$names] : ["$names"], options => $options, state => 'waiting', tokens => {}, has => {},
    }, $class;
}

# What the program has no more is given back; also where a handler of a signal dies when it was just granted. One that dies in here
# leaves that to the connection.
sub DESTROY {
    my ($self) = @_;
    my $connection = $self->{connection};
    return if ${^GLOBAL_PHASE} eq 'DESTRUCT' || !$connection || $connection->{has_ended} || $self->is_foreign || !%{ $self->{has} };
    local ($@, $!) = ($@, $!);
    $connection->give_back($self);
    return;
}

# What the daemon has said meanwhile.
sub _look {
    my ($self) = @_;
    my $connection = $self->{connection};
    return if $self->is_foreign;
    $connection->pump(0) if !$connection->{has_ended};
    # Where the time is over somebody else may hold it: it is held if the daemon says so again, and lost if it says nothing.
    my $end = Sidelock::now() + 2;
    $connection->pump(0.1) while !$connection->{has_ended} && $self->_is_over && Sidelock::now() < $end;
    return;
}

sub _is_over {
    my ($self) = @_;
    return $self->{state} eq 'held' && defined $self->{deadline} && $self->{deadline} <= Sidelock::now();
}

# Whether this is a forked child, and the lock its parent's.
sub is_foreign { my ($self) = @_; return $self->{connection}{pid} != $$ }

sub names { my ($self) = @_; return @{ $self->{names} } }
sub mode  { my ($self) = @_; return $self->{mode} }

# Whether it is held, by all that the daemon has said; no longer than it is good without an answer of the daemon.
sub held { my ($self) = @_; $self->_look; return $self->{state} eq 'held' && !$self->is_foreign && !$self->_is_over ? 1 : 0 }

# How it was lost: name, token, reason, grace_ms, detail; undef if it was not.
sub loss { my ($self) = @_; $self->_look; return $self->{loss} }

# Dies with Sidelock::Error::Lost if the lock was lost, with NotHeld if it is not held, and with Unavailable where its time is over
# and the daemon does not say that it is still held.
sub check {
    my ($self) = @_;
    my $held = $self->held;
    die Sidelock::Error->lost($self->{loss}) if $self->{loss};    ## no critic
    return $self if $held;
    my $name = $self->{names}[0];
    die Sidelock::Error->of('no_answer', "the time of lock $name is over, and the daemon does not say that it is still held")    ## no critic
        if $self->_is_over && !$self->is_foreign;
    die Sidelock::Error->of('not_held', "lock $name is not held here");    ## no critic
}

# The fencing token, of the first or of another name: send it along with every write. Dies as check does.
sub token { my ($self, $name) = @_; $self->check; return $self->{tokens}{ $name // $self->{names}[0] } }

# For how many seconds from now the hold is good for certain; undef: it does not end by itself.
sub valid {
    my ($self) = @_;
    return 0 unless $self->held;
    return unless defined $self->{deadline};
    return Sidelock::Connection::_max($self->{deadline} - Sidelock::now(), 0);
}

sub on_lost { my ($self, $code) = @_; $self->{options}{on_lost} = $code; return }

# Gives the lock back. Dies with Lost if it was lost before.
sub release {
    my ($self) = @_;
    my $connection = $self->{connection};
    if ($self->is_foreign || $self->{state} !~ /^(?:held|lost)$/) {
        die Sidelock::Error->of('not_held', "lock $self->{names}[0] is not held here");    ## no critic
    }
    my $failure;
    if (!$connection->{has_ended}) {
        my (%has, @requests);
        # Once, whatever comes between: an owner who has it twice has it under one token.
        Sidelock::whole(sub {
            %has = %{ $self->{has} };
            $self->{has} = {};
            @requests = map { $connection->start('release', { name => $_, token => $has{$_} }, lock => $self) } sort keys %has;
            return;
        });
        for my $request (@requests) {
            eval { $connection->finish($request, 0); 1 } or $failure //= $@;
        }
        $connection->forget($self, $_, $has{$_}) for keys %has;
    }
    $self->{state} = 'released';
    die Sidelock::Error->lost($self->{loss}) if $self->{loss};    ## no critic
    return unless $failure;
    if (ref $failure && $failure->reason eq 'lost') {
        my $name = $self->{names}[0];
        die Sidelock::Error->lost({ name => $name, token => $self->{tokens}{$name}, reason => $failure->data->{lost} });    ## no critic
    }
    die $failure;    ## no critic
}

# Shares from now on what was held alone.
sub downgrade { my ($self) = @_; $self->_of_one('downgrade'); $self->{mode} = 'shared'; return }

# Sets anew after how many seconds from now the hold ends; undef: it does not.
sub extend {
    my ($self, $max_hold) = @_;
    $self->_of_one('extend', max_hold_ms => defined $max_hold ? Sidelock::milliseconds($max_hold) || 1 : undef);
    return;
}

# Hands the lock to another session of this host, which must have asked for it.
sub transfer {
    my ($self, $session) = @_;
    $self->_of_one('transfer', session => "$session");
    my $name = $self->{names}[0];
    $self->{connection}->forget($self, $name, $self->{tokens}{$name});
    @$self{qw(state has)} = ('released', {});
    return;
}

sub _of_one {
    my ($self, $method, %more) = @_;
    $self->check;
    die Sidelock::Error->of('invalid_params', "$method is for one lock at a time") if @{ $self->{names} } != 1;    ## no critic
    my $name = $self->{names}[0];
    eval { $self->{connection}->call($method, { name => $name, token => $self->{tokens}{$name}, %more }); 1 } or do {
        my $fault = $@;
        die $self->{loss} ? Sidelock::Error->lost($self->{loss}) : $fault;    ## no critic
    };
    return;
}

package Sidelock::Error;

# Whatever goes wrong with a lock; Busy, Timeout, Lost, … are subclasses. `reason` is the stable name of errors.json, or one
# that this client found.

use strict;
use warnings;
use overload '""' => sub { return $_[0]{message} . "\n" }, 'bool' => sub { return 1 }, fallback => 1;

my %kinds = (
    busy => 'Busy', timeout => 'Timeout', cancelled => 'Cancelled', not_held => 'NotHeld', denied => 'Denied', permission => 'Denied',
    deadlock => 'Deadlock', lost => 'Lost', under_replicated => 'UnderReplicated',
    map { $_ => 'Unavailable' } qw(unavailable shutting_down no_daemon no_answer connection_lost),
);
for my $kind (values %kinds) {
    no strict 'refs';    ## no critic
    @{"Sidelock::Error::${kind}::ISA"} = ('Sidelock::Error');
}

sub of {
    my ($class, $reason, $message, $data) = @_;
    my $kind = $kinds{$reason} ? "Sidelock::Error::$kinds{$reason}" : $class;
    return bless { reason => $reason, message => $message, data => $data // {} }, $kind;
}

sub lost {
    my ($class, $loss) = @_;
    my $self = $class->of('lost', "lock $loss->{name} is lost: " . ($loss->{detail} // $loss->{reason}), { lost => $loss->{reason} });
    $self->{loss} = $loss;
    return $self;
}

# The error that the `error` member of a reply describes.
sub refusal {
    my ($class, $reply) = @_;
    my $data = ref $reply eq 'HASH' && ref $reply->{data} eq 'HASH' ? $reply->{data} : {};
    my $message = (ref $reply eq 'HASH' && $reply->{message}) || 'the daemon gave no message';
    $message .= ": $data->{detail}" if defined $data->{detail};
    return $class->of($data->{reason} // '', $message, $data);
}

sub reason  { my ($self) = @_; return $self->{reason} }
sub message { my ($self) = @_; return $self->{message} }
sub data    { my ($self) = @_; return $self->{data} }
sub loss    { my ($self) = @_; return $self->{loss} }

# How many replicas of Redis had the lease in time, of UnderReplicated; 0 also where the daemon does not tell.
sub acknowledged { my ($self) = @_; my $count = $self->{data}{acknowledged} // 0; return $count =~ /^\d+$/ ? int $count : 0 }

# Who has the lock, as far as the daemon tells.
sub holders { my ($self) = @_; return ref $self->{data}{holders} eq 'ARRAY' ? @{ $self->{data}{holders} } : () }

1;
