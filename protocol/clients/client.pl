#!/usr/bin/env perl
# Holds a lock until the input ends: client.pl SOCKET NAME.
use strict;
use warnings;
use IO::Select;
use IO::Socket::UNIX;
use JSON::PP;

@ARGV == 2 or fail('usage: client.pl SOCKET NAME');
my ($path, $name) = @ARGV;
$| = 1;
$SIG{PIPE} = 'IGNORE';    # A daemon that has gone is noticed when its socket is read.
utf8::decode($name) or fail('NAME is not UTF-8');

# Perl sets close-on-exec itself, as for every file after the standard three.
my $socket = IO::Socket::UNIX->new(Peer => $path) or fail("$path: $!");
my $json   = JSON::PP->new->utf8;
my $buffer = '';
my $holds  = 0;

# For one thread: replies belong to whoever reads them.
sub call {
    my ($id, $method, $params) = @_;
    print {$socket} $json->encode({ id => $id, method => $method, params => $params }), "\n";
    $socket->flush;
    while (1) {
        my $message = next_message();
        # A connection that the daemon refuses is told so with a null id.
        next unless exists $message->{id} && ($message->{id} // $id) eq $id;
        my $error = $message->{error} or return $message->{result};
        lost($error->{data}{lost}) if $error->{data}{reason} eq 'lost';
        fail($error->{message});
    }
}

# Reads until a line is complete. A lost lock ends the program.
sub next_message {
    my $end;
    while (($end = index $buffer, "\n") < 0) {
        next if sysread($socket, $buffer, 65536, length $buffer);
        lost('connection_ended') if $holds;    # Locks end with the connection.
        fail('the daemon closed the connection');
    }
    my $message = $json->decode(substr $buffer, 0, $end + 1, '');
    lost($message->{params}{reason}) if ($message->{method} // '') eq 'lost';
    return $message;
}

sub lost {
    print "lost $_[0]\n";
    exit 3;
}

sub fail {
    print STDERR "$_[0]\n";
    exit 1;
}

# Close-on-exec does not help against fork: a child would have the connection, and with it the lock.
call(0, 'initialize', { lifetime => 'process' });
my $held = call(1, 'acquire', { name => $name });
$holds = 1;
print "acquired $held->{token}\n";

# Work, and watch the socket meanwhile.
my $select  = IO::Select->new($socket, \*STDIN);
my $working = 1;
while ($working) {
    next_message() while $buffer =~ /\n/;
    for my $ready ($select->can_read) {
        if ($ready == $socket) { next_message() }
        elsif (!sysread(STDIN, my $ignored, 4096)) { $working = 0 }
    }
}

call(2, 'release', { name => $name, token => $held->{token} });
print "released\n";
