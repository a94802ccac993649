use strict;
use warnings;
use Sidelock;
use Time::HiRes 'time';

my ($end, $count) = (time + $ENV{CYCLES_SECONDS}, 0);
for (; time < $end; $count++) { Sidelock::lock('cycles')->release }
print "$count\n";
