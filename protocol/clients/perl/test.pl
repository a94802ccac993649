use strict;
use warnings;
use Sidelock;
use Time::HiRes ();

# What Perl has beside the conformance suite, with a daemon at SIDELOCK_SOCKET: handlers of signals that die, and times that are none.

sub check { my ($is_so, $what) = @_; die "not so: $what\n" unless $is_so; return }

my $other = Sidelock->new;
my $taken = $other->acquire('slow');
for (1 .. 20) {
    local $SIG{ALRM} = sub { die "alarm\n" };
    Time::HiRes::ualarm(20_000);
    eval { Sidelock::lock('slow'); 1 };
    check($@ eq "alarm\n", 'the alarm ends the wait');
}
while ($other->call('inspect', name => 'slow')->{waiting}) { select undef, undef, undef, 0.01 }
$taken->release;
check(Sidelock::lock('slow', wait => 5)->held, 'nothing is left of the waits');

# Alarms at any moment, of which many hit an acquire, a release or what is between them: no hold is left that no object has.
{
    my ($rounds, $hits) = (0, 0);
    my $end = Time::HiRes::time() + 3;
    while (Time::HiRes::time() < $end) {
        my $name = 'storm-' . $rounds++ % 3;
        local $SIG{ALRM} = sub { $hits++; die "alarm\n" };
        # What dies in a DESTROY perl tells of itself.
        local $SIG{__WARN__} = sub { check($_[0] =~ /\(in cleanup\) alarm/, "no other warning: $_[0]") };
        eval {
            eval {
                Time::HiRes::ualarm(20 + int rand 400);
                if ($rounds % 3) {
                    Sidelock::with($name, wait => 0, sub { return });
                }
                else {
                    my $lock = Sidelock::lock($name, wait => 0);
                    $lock->release if $rounds % 2;
                }
                1;
            } or check($@ eq "alarm\n" || ref $@ && $@->reason eq 'busy', "nothing else goes wrong: $@");    # A grant that is still under way
            Time::HiRes::ualarm(0);
            1;
        } or check($@ eq "alarm\n", "nothing else goes wrong: $@");
    }
    check($hits > 0, "the alarms have hit: $hits");
    check(Sidelock::lock("storm-$_", wait => 5)->held, "storm-$_ is free") for 0 .. 2;
    check(!@{ $other->call('list', prefix => 'storm-')->{locks} }, 'and is given back with its object');
}

for my $time (9**9**9, -sin(9**9**9)) {
    eval { Sidelock::lock('timed', wait => $time); 1 };
    check(ref $@ && $@->reason eq 'invalid_params', "$time is no time");
}

eval { Sidelock::lock('timed', timeout => 1); 1 };
check(ref $@ && $@->reason eq 'invalid_params' && $@->message =~ /timeout/, 'no such option');
