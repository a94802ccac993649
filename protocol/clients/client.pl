#!/usr/bin/env perl
# Holds a lock until the input ends: client.pl SOCKET NAME.
use strict;
use warnings;
use IO::Select;
use IO::Socket::UNIX;
use JSON::PP;

@ARGV == 2 or die "usage: client.pl SOCKET NAME\n";
my ($path, $name) = @ARGV;
$| = 1;
utf8::decode($name);

# Perl sets close-on-exec itself, as for every file after the standard three.
my $socket = IO::Socket::UNIX->new(Peer => $path) or die "$path: $!\n";
my $json   = JSON::PP->new->utf8;
my $buffer = '';

sub call {
    my ($id, $method, $params) = @_;
    print {$socket} $json->encode({ id => $id, method => $method, params => $params }), "\n";
    $socket->flush;
    while (1) {
        my $message = next_message();
        next unless defined $message->{id} && $message->{id} eq $id;
        die $message->{error}{message}, "\n" if $message->{error};
        return $message->{result};
    }
}

# Reads until a line is complete. A lost lock ends the program.
sub next_message {
    my $end;
    while (($end = index $buffer, "\n") < 0) {
        sysread($socket, $buffer, 65536, length $buffer) or die "the daemon closed the connection\n";
    }
    my $message = $json->decode(substr $buffer, 0, $end + 1, '');
    if (($message->{method} // '') eq 'lost') {
        print "lost $message->{params}{reason}\n";
        exit 3;
    }
    return $message;
}

my $held = call(1, 'acquire', { name => $name });
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
