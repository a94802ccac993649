use strict;
use warnings;
use IO::Socket::UNIX;
use Time::HiRes 'time';

my $script = 'if redis.call("GET", KEYS[1]) == ARGV[1] then return redis.call("DEL", KEYS[1]) else return 0 end';
my $server = IO::Socket::UNIX->new($ENV{CYCLES_REDIS}) or die $!;

sub ask {
    my ($expected, @words) = @_;
    syswrite $server, join '', '*' . @words . "\r\n", map { '$' . length($_) . "\r\n$_\r\n" } @words;
    sysread $server, my $answer, 4096;
    die $answer if $answer ne "$expected\r\n";
    return;
}

my ($end, $count) = (time + $ENV{CYCLES_SECONDS}, 0);
for (; time < $end; $count++) {
    ask('+OK', 'SET', 'raw', 'mine', 'NX', 'PX', '30000');
    ask(':1', 'EVAL', $script, '1', 'raw', 'mine');
}
print "$count\n";
