# clients_slow.t - clients that read slowly or not at all, and clients that leave at every stage.
#
# What a slow client costs is bounded: its bytes here, its sequence (parked,
# then ended after llm_send_timeout), and nothing for the others.
use strict;
use warnings;

use FindBin;
use IO::Socket::INET;
use Socket;
use Test::More;
use Time::HiRes qw(sleep time);

require "$FindBin::Bin/lib/LLM/Nginx.pm";
local $SIG{PIPE} = 'IGNORE';

my $n = LLM::Nginx->new(workers => 1, main => 'worker_rlimit_nofile 4096;',
    http => 'client_body_buffer_size 8k;',
    location => 'llm_send_timeout 3s; llm_buffer_size 16k; client_body_timeout 5s;');
$n->start->wait_ready;
$n->chat for 1 .. 20;
my ($worker) = $n->workers;
my $engine = $n->engine;

sub count_fds { return scalar(() = glob "/proc/$_[0]/fd/*") }

sub rss_kb {
    open my $f, '<', "/proc/$_[0]/status" or die;
    my ($kb) = join('', <$f>) =~ /VmRSS:\s+(\d+) kB/;
    return $kb;
}

sub metric {
    my ($name) = @_;
    my $r = $n->get('/metrics') // return -1;
    my ($v) = $r->{body} =~ /^vllm:$name (\d+)/m;
    return $v // -1;
}

# A client with a small window: what it does not read stays at the server.
sub small_window {
    my (%mock) = @_;
    socket my $s, AF_INET, SOCK_STREAM, 0 or die;
    setsockopt $s, SOL_SOCKET, SO_RCVBUF, pack 'i', 2048;
    connect $s, sockaddr_in($n->{port}, inet_aton('127.0.0.1')) or die "connect: $!";
    syswrite $s, LLM::Nginx::request_text('/v1/chat/completions', body => LLM::Nginx::body(%mock));
    return $s;
}

my ($worker_fds, $engine_fds) = (count_fds($worker), count_fds($engine));
my $rss = rss_kb($worker);

# ---- sixty that read slowly or not at all, and one beside them ---------------------
{
    my @slow = map { small_window(tokens => 1000000, bytes => 2000) } 1 .. 60;
    # The kernel takes megabytes for each of them first.
    my ($was, $now) = (-1, 0);
    ok($n->wait_for(sub {
        ($was, $now) = ($now, metric('generation_tokens_total'));
        sleep 0.1;
        return $now > 0 && $now == $was;
    }), 'sixty that do not read: their sequences stand still');
    is(metric('num_requests_running'), 60, 'and are there');
    my $grown = rss_kb($worker) - $rss;
    cmp_ok($grown, '<', 60 * 400, "the worker keeps $grown kB for them");

    # The one beside them, while a third of them reads a byte now and then.
    my ($worst, $last, $events) = (0, undef, 0);
    my $beside = $n->stream(tokens => 150, delay_ms => 10);
    while (!$beside->{eof}) {
        $beside->read_until(qr/\n\n/, 1);
        my $now = time;
        $worst = $now - $last if defined $last && $now - $last > $worst && !$beside->{eof};
        $last = $now;
        $events += () = $beside->{data} =~ /data: /g;
        $beside->{data} = '';
        sysread $slow[rand 20], my $byte, 1;
    }
    cmp_ok($events, '>=', 152, 'beside them a stream is whole');
    cmp_ok($worst, '<', 0.5, sprintf 'and its events come in time, the worst after %.0f ms', $worst * 1e3);
    ok($n->wait_for(sub { metric('num_requests_running') == 0 }, 10), 'they are ended');
    my @ended = $n->log('access.log') =~ /slow_reader (\d+)/g;
    is(scalar @ended, 60, 'each as a slow reader, with what it has cost');
    is(scalar(grep { $_ == 0 || $_ > 5000 } @ended), 0, 'which was bounded');
    close $_ for @slow;
    ok($n->wait_for(sub { count_fds($worker) <= $worker_fds }), 'the worker has its descriptors back');
    is($n->chat->{status}, 200, 'and serves');
}

# ---- one that reads a byte at a time, and is waited for -----------------------------
{
    my $s = $n->stream(tokens => 20, delay_ms => 5);
    my ($data, $byte) = '';
    $data .= $byte while sysread $s->{socket}, $byte, 1;
    like($data, qr/tok19 .*\[DONE\]\n\n\r\n0\r\n\r\n\z/s, 'byte by byte: whole');
}

# ---- leaving at every byte of the request, and behind every event --------------------
{
    my %leave = (
        close => sub { $_[0]->close },
        reset => sub {
            setsockopt $_[0]{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
            $_[0]->close;
        },
        half_close => sub { shutdown $_[0]{socket}, 1; push @{ $_[1] }, $_[0] },
    );
    my $text = LLM::Nginx::request_text('/v1/chat/completions',
        body => LLM::Nginx::body(tokens => 20, delay_ms => 2, first_ms => 20));
    my @kept;
    for my $how (sort keys %leave) {
        for my $cut (0 .. length($text)) {
            my $s = LLM::Nginx::Stream->new($n, substr $text, 0, $cut);
            $leave{$how}->($s, \@kept);
            sleep 0.001 if $cut % 10 == 0;
        }
        for my $event (0 .. 6) {
            for my $stream (qw(true false)) {
                my $s = $n->stream(tokens => 5, delay_ms => 10, stream => $stream);
                $event == 6 ? $s->read_until(qr/DONE|usage/)
                    : $event ? $s->read_until(qr/tok@{[$event - 1]} /) : sleep 0.005;
                $leave{$how}->($s, \@kept);
            }
        }
        $_->close for splice @kept;
        ok($n->wait_for(sub { metric('num_requests_running') == 0 }),
            length($text) . " stages, $how: the engine is idle");
    }
    ok($n->wait_for(sub { count_fds($worker) <= $worker_fds }, 10), 'the worker has its descriptors back')
        or diag(count_fds($worker) . " of $worker_fds");
    is(count_fds($engine), $engine_fds, 'so has the engine');
    is(($n->workers)[0], $worker, 'the worker is the same');
    is($n->engine, $engine, 'so is the engine');
    cmp_ok(rss_kb($worker), '<', $rss + 30000, 'and has not grown');
    unlike($n->log, qr/has not ended a cancelled request/, 'no END was late');
}

$n->stop->check_clean;
done_testing();
