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

for my $time (9**9**9, -sin(9**9**9)) {
    eval { Sidelock::lock('timed', wait => $time); 1 };
    check(ref $@ && $@->reason eq 'invalid_params', "$time is no time");
}

eval { Sidelock::lock('timed', timeout => 1); 1 };
check(ref $@ && $@->reason eq 'invalid_params' && $@->message =~ /timeout/, 'no such option');
