#!/usr/bin/env perl
# The conformance suite's driver. See protocol/conformance/README.md. Its workers are owners on one connection: a wait is
# begun, and the program goes on reading commands.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::Bin/lib";
use POSIX ();
use Sidelock;

my $client = Sidelock->new;
my (%locks, %waits, %leaves, %watches);
my $input = '';
my $is_over;

sub say_line {
    my ($head, @fields) = @_;
    my @words = $head;
    while (my ($key, $value) = splice @fields, 0, 2) {
        $value = "$value";
        utf8::encode($value);
        $value =~ s{([^A-Za-z0-9/:,._-])}{sprintf '%%%02X', ord $1}ge;
        push @words, "$key=$value";
    }
    syswrite STDOUT, join(' ', @words) . "\n";
    return;
}

sub parse {
    my ($line) = @_;
    my ($tag, $verb, @words) = split / /, $line;
    my %args;
    for my $word (@words) {
        my ($key, $value) = split /=/, $word, 2;
        $value =~ s/%([0-9A-Fa-f]{2})/chr hex $1/ge;
        utf8::decode($value);
        if ($key eq 'name') { push @{ $args{names} }, $value }
        $args{$key} = $value;
    }
    return ($tag, $verb, \%args);
}

sub on_lost {
    my ($label) = @_;
    return sub {
        my ($loss) = @_;
        say_line('event lost', lock => $label, map { $_ => $loss->{$_} } qw(name token reason grace_ms));
    };
}

sub options {
    my ($args) = @_;
    my $label = $args->{lock};
    my %made = (owner => 'worker-' . ($args->{worker} // 0), on_lost => on_lost($label));
    $made{shared}   = 1                              if ($args->{mode} // '') eq 'shared';
    $made{wait}     = $args->{wait} / 1000           if defined $args->{wait};
    $made{max_hold} = $args->{max_hold} / 1000       if defined $args->{max_hold};
    $made{permits}  = $args->{permits}               if defined $args->{permits};
    $made{replicas} = $args->{replicas}              if defined $args->{replicas};
    $made{durability} = $args->{durability}          if defined $args->{durability};
    $made{meta}     = $args->{meta}                  if defined $args->{meta};
    $made{meta}     = 'x' x $args->{meta_bytes}      if defined $args->{meta_bytes};
    if ($args->{progress}) {
        $made{on_waiting}   = sub { say_line('event waiting',   lock => $label, position => $_[0]{position}) };
        $made{on_contended} = sub { say_line('event contended', lock => $label, waiters  => $_[0]) };
    }
    return %made;
}

sub valid {
    my ($lock) = @_;
    my $valid = $lock->valid;
    return defined $valid ? int $valid * 1000 : 'none';
}

my %kinds = map { ("Sidelock::Error::$_" => lc) } qw(Busy Timeout Cancelled Lost Denied Unavailable Deadlock);
$kinds{'Sidelock::Error::UnderReplicated'} = 'under_replicated';

sub failed {
    my ($tag, $fault) = @_;
    return say_line("$tag error body") if !ref $fault && $fault eq "body\n";
    die $fault unless ref $fault;
    my $type = $kinds{ ref $fault } // 'error';
    my @fields = (type => $type, message => $fault->message);
    push @fields, holders => scalar(my @all = $fault->holders) if $type =~ /busy|timeout/;
    push @fields, acknowledged => $fault->acknowledged if $type eq 'under_replicated';
    push @fields, lost => $fault->loss->{reason} if $type eq 'lost';
    say_line("$tag error " . ($fault->reason || 'unknown'), @fields);
    return;
}

my %verbs = (
    noop    => sub { return },
    path    => sub { return (path => Sidelock::socket_path($client->{path})) },
    open    => sub { $client = Sidelock->new(path => $_[0]{path}, patience => ($_[0]{answer_ms} // 5000) / 1000); return },
    close   => sub { $client->close; return },
    session => sub { return (session => $client->session) },
    leave   => sub { $leaves{ $_[0]{lock} } = $_[0]{fail} ? 'fail' : 'leave'; return },
    release => sub { $locks{ $_[0]{lock} }->release; return },
    held    => sub {
        my $lock = $locks{ $_[0]{lock} } or return (held => 0);
        my @fields = (held => $lock->held, valid_ms => valid($lock));
        push @fields, lost => $lock->loss->{reason} if $lock->loss;
        return @fields;
    },
    scope => sub {
        my ($args) = @_;
        $client->with_lock($args->{names}, options($args), sub {
            my ($lock) = @_;
            say_line('event entered', lock => $args->{lock}, token => $lock->token) if $lock->held;
            turn() until $leaves{ $args->{lock} };
            die "body\n" if $leaves{ $args->{lock} } eq 'fail';
        });
        return;
    },
    cancel    => sub { $waits{ $_[0]{target} }->cancel; $client->{connection}->tell; return },
    downgrade => sub { $locks{ $_[0]{lock} }->downgrade; return },
    extend    => sub { $locks{ $_[0]{lock} }->extend($_[0]{max_hold} eq 'none' ? undef : $_[0]{max_hold} / 1000); return },
    transfer  => sub { $locks{ $_[0]{lock} }->transfer($_[0]{session}); return },
    accept    => sub {
        my $label = $_[0]{lock};
        $client->accept_transfers(sub {
            my ($lock) = @_;
            $locks{$label} = $lock;
            $lock->on_lost(on_lost($label));
            my ($name) = $lock->names;
            say_line('event transferred', lock => $label, name => $name, token => $lock->{tokens}{$name});
        });
        return;
    },
    watch => sub {
        my ($args) = @_;
        my @what = $args->{names} ? (name => $args->{names}[0]) : (prefix => $args->{prefix} // '');
        $watches{ $args->{watch} } = $client->watch(@what, sub {
            my ($event) = @_;
            say_line('event watch', (map { $_ => $event->{$_} } grep { !ref $event->{$_} } keys %$event), watch => $args->{watch});
        });
        return;
    },
    unwatch => sub { $watches{ $_[0]{watch} }->close; return },
    spawn   => sub {
        my $pid = fork // die;
        if (!$pid) { open STDIN, '<', '/dev/null'; open STDOUT, '>', '/dev/null'; exec 'sleep', '60' }
        return (pid => $pid);
    },
    cycles => sub { return cycles($_[0]) },
    fork   => sub {
        my ($args) = @_;
        my $pid = fork // die;
        return (pid => $pid) if $pid;
        my $lock   = $locks{ $args->{lock} };
        my @fields = (held => $lock->held);
        eval { $lock->release; 1 } or push @fields, release => $@->reason;
        my $own = $client->acquire($args->{names}, wait => 0);
        push @fields, acquired => $own->held;
        my $again = eval { $client->acquire([$lock->names], wait => 0) };
        say_line('event child', @fields, again => $again ? 1 : 0);
        POSIX::_exit(0) if $args->{exit};
        sleep 1000 while 1;
    },
);

# So many workers, each an owner on the one connection.
sub cycles {
    my ($args) = @_;
    my ($last, $rising, $left) = (0, 1, $args->{workers});
    write_number($args->{file}, 0);
    my $begin;
    $begin = sub {
        my ($worker, $cycle) = @_;
        if ($cycle == $args->{cycles}) { $left--; return }
        my $wait = $client->begin($args->{names}, owner => "cycle-$worker");
        my $done = sub {
            my $lock = $wait->finish;
            open my $file, '<', $args->{file} or die $!;
            write_number($args->{file}, <$file> + 1);
            $rising = 0 unless $lock->{tokens}{ $args->{names}[0] } > $last;
            $last = $lock->{tokens}{ $args->{names}[0] };
            $lock->release;
            $begin->($worker, $cycle + 1);
        };
        if ($wait->is_done) { push @{ $client->{connection}{calls} }, $done } else { $wait->{request}{done} = $done }
    };
    $client->session;
    $begin->($_, 0) for 1 .. $args->{workers};
    turn() while $left;
    return (rising => $rising);
}

sub write_number {
    my ($path, $number) = @_;
    open my $file, '>', $path or die $!;
    print {$file} $number;
    close $file;
    return;
}

# Begins to wait; the answer is said when it is known.
sub acquire {
    my ($tag, $args) = @_;
    my $wait = $waits{$tag} = $client->begin($args->{names}, options($args));
    # What limits the wait when the daemon hangs is in finish; a limited wait is short, and is waited out.
    my $done = sub {
        eval {
            my $lock = $wait->finish;
            $locks{ $args->{lock} } = $lock;
            say_line("$tag ok", token => join(',', map { $lock->{tokens}{$_} } @{ $args->{names} }), mode => $lock->mode,
                valid_ms => valid($lock));
            1;
        } or failed($tag, $@);
    };
    if ($wait->is_done || defined $args->{wait}) { $done->() } else { $wait->{request}{done} = $done }
    return;
}

sub answer {
    my ($line) = @_;
    my ($tag, $verb, $args) = parse($line);
    eval {
        if   ($verb eq 'acquire') { acquire($tag, $args) }
        else                      { say_line("$tag ok", $verbs{$verb}->($args)) }
        1;
    } or failed($tag, $@);
    return;
}

# Waits for a command, or for the daemon.
sub turn {
    while ($input =~ s/^([^\n]*)\n//) {
        answer($1);
        return;
    }
    my $pause  = $client->pause;
    my $daemon = $client->fileno;
    my $bits   = '';
    vec($bits, 0, 1) = 1;
    vec($bits, $daemon, 1) = 1 if defined $daemon;
    return if select($bits, undef, undef, $pause) < 0;
    $client->pump;
    if (vec $bits, 0, 1) {
        if (!sysread STDIN, $input, 65536, length $input) { $client->close; exit 0 }
    }
    return;
}

$SIG{USR1} = sub { };
say_line('driver 1', language => 'perl', features => 'fork,connects');
turn() while 1;
