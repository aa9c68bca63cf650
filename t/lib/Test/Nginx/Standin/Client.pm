# Client.pm - sends one list of packets to nginx and collects what comes back.
#
# The timeout is per gap between two I/O events, never for the whole exchange:
# a stream of many events passes with a timeout shorter than the stream, if and
# only if nginx really streams.
package Test::Nginx::Standin::Client;

use strict;
use warnings;

use Errno qw(EAGAIN EINTR EPIPE ECONNRESET);
use Exporter 'import';
use IO::Select ();
use IO::Socket::INET ();
use Time::HiRes qw(sleep time);
use Test::Nginx::Util qw(bail_out extra_failure);

our @EXPORT_OK = qw(exchange);

use constant CONNECT_SECONDS => 5;
use constant READ_BYTES      => 65536;
my $refused = 0;                 # connections that never came about, this file

# Returns the bytes received, undef when there was no connection.
sub exchange {
    my ($packets, $timeout, $block) = @_;
    my $sock = _connect($block, $timeout) or return undef;
    local $SIG{PIPE} = 'IGNORE';
    $sock->blocking(0);

    my @todo = map { {%$_} } @$packets;
    my $sent = 0;
    my $received = '';
    while (1) {
        my $readers = IO::Select->new($sock);
        my $writers = @todo ? IO::Select->new($sock) : undef;
        $! = 0;
        my ($can_read, $can_write) =
            IO::Select->select($readers, $writers, undef, $timeout);
        if (!defined $can_read) {
            next if $! == EINTR;
            close $sock;
            _timed_out($block);
            last;
        }
        if (@$can_read) {
            my $n = sysread $sock, $received, READ_BYTES, length $received;
            last if defined $n && $n == 0;
            if (!defined $n && $! != EAGAIN && $! != EINTR) {
                warn 'WARNING: ', $block->name, " - HTTP response read failure: $!\n";
                last;
            }
        }
        if (@$can_write && @todo) {
            _write($sock, \@todo, \$sent, \$received, $block) or last;
        }
    }
    close $sock;
    return $received;
}

# Writes what the socket takes of the first packet.  False ends the exchange.
sub _write {
    my ($sock, $todo, $sent, $received, $block) = @_;
    my $packet = $todo->[0];
    if ($$sent < length $packet->{value}) {
        my $n = syswrite $sock, $packet->{value},
            length($packet->{value}) - $$sent, $$sent;
        if (!defined $n) {
            return 1 if $! == EAGAIN || $! == EINTR;
            warn "write failed: $!\n";
            # nginx may have answered and closed before it read everything.
            if ($! == EPIPE || $! == ECONNRESET) {
                @$todo = ();
                return 1;
            }
            return 0;
        }
        $$sent += $n;
        return 1 if $$sent < length $packet->{value};
    }
    shift @$todo;
    $$sent = 0;
    if (@$todo) {
        my $delay = $todo->[0]{delay_before} // $block->raw_request_middle_delay;
        sleep $delay if $delay;
    } elsif (defined(my $how = $block->shutdown)) {
        shutdown $sock, $how =~ /^\s*$/ ? 1 : $how;
    }
    return 1;
}

sub _timed_out {
    my ($block) = @_;
    return if defined $block->abort;
    extra_failure('ERROR: client socket timed out - ' . $block->name);
    return;
}

# nginx may need a moment after start or reload; a server that stays away is a
# failure, the third one in a file ends the run.
sub _connect {
    my ($block, $timeout) = @_;
    my $addr = $block->server_addr_for_client // $Test::Nginx::Util::ServerAddr;
    my $port = $Test::Nginx::Util::ServerPortForClient;
    my $deadline = time + CONNECT_SECONDS;
    while (1) {
        my $sock = IO::Socket::INET->new(
            PeerAddr => $addr, PeerPort => $port, Proto => 'tcp',
            Timeout => $timeout);
        return $sock if $sock;
        last if time > $deadline;
        sleep 0.05;
    }
    my $message = $block->name . " - Can't connect to $addr:$port: $! (aborted)";
    bail_out($message) if ++$refused >= 3;
    extra_failure($message);
    return undef;
}

1;
