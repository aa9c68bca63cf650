# process_clients.t - clients that leave, read slowly, or come by the hundred.
#
# Afterwards every slot is free, descriptors are back at the baseline, and the
# log holds no complaint.
use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(sleep time);

require "$FindBin::Bin/lib/LLM/Nginx.pm";

my $aborts = $ENV{TEST_LLM_ABORTS} || 1000;
my $seed = $ENV{TEST_LLM_SEED} || time ^ $$;
srand $seed;
diag("seed $seed");

sub count_fds {
    my ($pid) = @_;
    my @fds = glob "/proc/$pid/fd/*";
    return scalar @fds;
}

# What the mock says of itself.
sub running {
    my ($n) = @_;
    my ($value) = $n->get('/metrics')->{body} =~ /^vllm:num_requests_running\S* (\d+)/m;
    return $value;
}

my $n = LLM::Nginx->new(workers => 1, http => 'client_body_buffer_size 8k;',
    location => 'llm_send_timeout 1s; llm_buffer_size 16k;');
$n->start->wait_ready;
$n->chat for 1 .. 5;
my ($worker) = $n->workers;
my $engine = $n->engine;
my ($worker_fds, $engine_fds) = (count_fds($worker), count_fds($engine));

# Aborts at random points: in the head, in the body, before, during the answer.
{
    local $SIG{PIPE} = 'IGNORE';
    my $text = LLM::Nginx::request_text('/v1/chat/completions', body =>
        LLM::Nginx::body(tokens => 30, delay_ms => 3, first_ms => 5, bytes => 200));
    my @open;
    for my $i (1 .. $aborts) {
        my $socket = $n->connect or next;
        my $cut = rand() < 0.3 ? int rand length $text : length $text;
        print {$socket} substr $text, 0, $cut;
        $socket->flush;
        shutdown $socket, 1 if rand() < 0.2;
        push @open, [$socket, time + rand 0.15];
        sleep 0.002 if rand() < 0.3;
        @open = grep { $_->[1] > time || !close $_->[0] } @open;
    }
    close $_->[0] for @open;
    ok($n->wait_for(sub { (running($n) // 1) == 0 }, 15),
        "$aborts aborts: the engine is idle");
    ok($n->wait_for(sub { count_fds($worker) <= $worker_fds }),
        'the worker has its descriptors back')
        or diag(count_fds($worker) . " of $worker_fds");
    is(count_fds($engine), $engine_fds, 'so has the engine');
    is(($n->workers)[0], $worker, 'the worker is the same');
    is($n->engine, $engine, 'so is the engine');
    is($n->chat->{status}, 200, 'and serves');
}

# A half-close with the request counts as leaving, as with proxy_pass.
{
    my $s = $n->stream(tokens => 500, delay_ms => 10);
    shutdown $s->{socket}, 1;
    ok($s->read_until(undef, 3), 'half-closed: ended');
    ok($n->wait_for(sub { $n->log('access.log') =~ /client_abort/ }), 'as client_abort');
}

# A reader that stops: its sequence is parked, then ended; others go on.
{
    my $slow = $n->stream(tokens => 100000, bytes => 1000, delay_ms => 0);
    my $t = time;
    my $fast = $n->stream(tokens => 50, delay_ms => 10);
    like($fast->finish->{body}, qr/tok49 .*\[DONE\]/s, 'beside a reader that stops others go on');
    ok($n->wait_for(sub { $n->log('access.log') =~ /slow_reader/ }, 8),
        'it is ended as a slow reader');
    open my $f, '<', "/proc/$worker/status" or die;
    my ($kb) = join('', <$f>) =~ /VmRSS:\s+(\d+) kB/;
    # AddressSanitizer keeps what is freed.
    my $limit = $ENV{TEST_LLM_SANITIZED} ? 300000 : 60000;
    cmp_ok($kb, '<', $limit, 'the worker has not kept its answer');
    ok($n->wait_for(sub { (running($n) // 1) == 0 }), 'the engine is idle');
    $slow->close;
}

# A reader that is slow but moves gets everything.
{
    my $s = $n->stream(tokens => 300, bytes => 3000, delay_ms => 0);
    my $until = time + 20;
    my $data = '';
    while (time < $until) {
        my $got = sysread $s->{socket}, my $chunk, 30000;
        last if !$got;
        $data .= $chunk;
        sleep 0.01;
    }
    like($data, qr/\[DONE\]\n\n\r\n0\r\n\r\n\z/, 'a slow reader gets the end');
}

# 200 at once, on connections that stay.
{
    my @streams = map { $n->stream(tokens => 20, delay_ms => 5) } 1 .. 200;
    my $whole = grep { my $r = $_->finish; $r && $r->{body} =~ /tok19 .*\[DONE\]/s } @streams;
    is($whole, 200, '200 streams at once are whole');
}

# HTTP/2, where a connection of ours does not exist.
SKIP: {
    my $curl = qx(curl --version 2>/dev/null);
    skip 'curl without HTTP/2', 3 if $curl !~ /HTTP2/;
    $n->write_conf(http => "server { listen 127.0.0.1:" . ($n->{h2} = LLM::Nginx::free_port())
        . " http2; location / { llm_pass chat; } }");
    $n->reload;
    my $url = "http://127.0.0.1:$n->{h2}/v1/chat/completions";
    my $h2 = 'curl -sN -m 10 --http2-prior-knowledge -H "Content-Type: application/json"';
    my $body = LLM::Nginx::body(tokens => 5, delay_ms => 20);
    like(qx($h2 -d '$body' $url), qr/tok4 .*\[DONE\]/s, 'HTTP/2: a stream');
    $body = LLM::Nginx::body(tokens => 500, delay_ms => 20);
    my $out = qx($h2 -m 0.4 -d '$body' $url);
    like($out, qr/tok5 /, 'HTTP/2: aborted in the stream');
    ok($n->wait_for(sub { (running($n) // 1) == 0 }), 'HTTP/2: and cancelled');
}

$n->stop->check_clean;

# llm_queue: what the engine cannot take waits, more is refused at once.
{
    my $m = LLM::Nginx->new(workers => 1, http => 'llm_queue 3; llm_connect_timeout 800ms;',
        engine => 'handshake silent; shutdown_timeout 1s;');
    $m->start;
    my @s = map { $m->stream(tokens => 1) } 1 .. 6;
    my @r = map { $_->finish } @s;
    is(scalar(grep { $_->{status} == 503 } @r), 6, 'six requests without an engine: 503');
    is(scalar(grep { $_->{body} =~ /queue_full/ } @r), 3, 'three at once: the queue is full');
    $m->stop('TERM')->check_clean;
}

# llm_ignore_client_abort: the answer is finished for nobody.
{
    my $m = LLM::Nginx->new(workers => 1, location => 'llm_ignore_client_abort on;');
    $m->start->wait_ready;
    my $s = $m->stream(stream => 'false', tokens => 10, delay_ms => 30);
    sleep 0.1;
    $s->close;
    ok($m->wait_for(sub { $m->log('access.log') =~ / stop 10 / }), 'aborts can be ignored');
    $m->stop->check_clean;
}

done_testing();
