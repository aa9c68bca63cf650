# clients_abort.t - a request that is cut off is logged with exact numbers, whoever cuts it.
#
# However a client leaves, the module waits for the engine's END, sends nothing
# more, and logs what the request has cost.  The wait ends with the engine, with
# the worker, and after a second.
use strict;
use warnings;

use FindBin;
use Socket;
use Test::More;
use Time::HiRes qw(sleep time);

require "$FindBin::Bin/lib/LLM/Nginx.pm";

my $seed = $ENV{TEST_LLM_SEED} || time ^ $$;
srand $seed;
diag("seed $seed");
local $SIG{PIPE} = 'IGNORE';

my $format = 'log_format full "$status reason=$llm_finish_reason prompt=$llm_prompt_tokens'
    . ' cached=$llm_cached_tokens completion=$llm_completion_tokens ttft=$llm_ttft'
    . ' stream=$llm_stream id=$llm_request_id time=$request_time end";';

# A server whose location writes logs/full.log.
sub server {
    my (%o) = @_;
    my $location = delete $o{location} // '';
    my $http = delete $o{http} // '';
    return LLM::Nginx->new(workers => 1, http => "$format $http",
        location => "access_log logs/full.log full; $location", %o);
}

my $id = 0;

# Starts a request with an id of its own; {stream => 'false'} for a whole answer.
sub ask {
    my ($n, %mock) = @_;
    $id++;
    my $version = delete $mock{version} // '1.1';
    my $text = LLM::Nginx::request_text(delete $mock{uri} // '/v1/chat/completions',
        headers => { 'X-Request-Id' => "r$id", %{ delete $mock{headers} || {} } },
        body => LLM::Nginx::body(prompt_tokens => 7, cached_tokens => 2, %mock));
    my $s = LLM::Nginx::Stream->new($n, $text);
    $s->{id} = "r$id";
    return $s;
}

# The request's line of the log, as a hash; waits for it.
sub logged {
    my ($n, $s, $seconds) = @_;
    my $line;
    # nginx may linger on a connection that its client keeps open after the end.
    $s->close if $s->{eof};
    $n->wait_for(sub {
        ($line) = $n->log('full.log') =~ /^(.* id=$s->{id} .*end)$/m;
        return $line;
    }, $seconds || 5) or return {};
    my %f = $line =~ /(\w+)=(\S+)/g;
    ($f{status}) = $line =~ /^(\d+)/;
    return \%f;
}

sub reset_socket {
    my ($s) = @_;
    setsockopt $s->{socket}, SOL_SOCKET, SO_LINGER, pack('ii', 1, 0);
    return $s->close;
}

sub metric {
    my ($n, $name) = @_;
    my $r = $n->get('/metrics') // return -1;
    my ($v) = $r->{body} =~ /^vllm:$name (\d+)/m;
    return $v // -1;
}

sub idle {
    my ($n, $name) = @_;
    return ok($n->wait_for(sub { metric($n, 'num_requests_running') == 0 }), $name);
}

# ---- one kind of leaving after the other ----------------------------------------
{
    my $n = server(location => 'llm_send_timeout 700ms; llm_buffer_size 8k;')->start->wait_ready;
    my $before = metric($n, 'generation_tokens_total');
    my $logged = 0;

    my %leave = (
        close => sub { $_[0]->close },
        reset => \&reset_socket,
        half_close => sub { shutdown $_[0]{socket}, 1 },
    );
    for my $how (sort keys %leave) {
        my $s = ask($n, tokens => 1000, delay_ms => 10);
        ok($s->read_until(qr/tok4 /), "$how in a stream");
        my $t = time;
        $leave{$how}->($s);
        my $f = logged($n, $s);
        cmp_ok(time - $t, '<', 0.8, "$how: END is not waited for in vain");
        is("$f->{status} $f->{reason} $f->{prompt} $f->{cached} $f->{stream}",
            '200 client_abort 7 2 1', "$how: logged as it was");
        cmp_ok($f->{completion}, '>=', 5, "$how: what was generated");
        cmp_ok($f->{completion}, '<', 300, "$how: and not more");
        is($f->{ttft}, '0.002000', "$how: the engine's own time to the first token");
        $logged += $f->{completion};
        next if $how ne 'half_close';
        ok($s->read_until(undef, 2), 'half_close: the other half ends');
        unlike($s->{data}, qr/DONE|error|\r\n0\r\n/, 'half_close: without another word');
    }

    my $s = ask($n, stream => 'false', tokens => 50, delay_ms => 20);
    sleep 0.2;
    $s->close;
    my $f = logged($n, $s);
    is("$f->{status} $f->{reason} $f->{prompt} $f->{cached}", '499 client_abort 7 2',
        'in a whole answer: 499 and the numbers');
    cmp_ok($f->{completion}, '>=', 2, 'in a whole answer: what was generated');
    $logged += $f->{completion};

    $s = ask($n, tokens => 5, first_ms => 5000);
    sleep 0.1;
    $s->close;
    $f = logged($n, $s);
    is("$f->{status} $f->{reason} $f->{prompt} $f->{completion}", '499 client_abort 7 0',
        'before the head: 499, the prompt, no completion');

    $s = ask($n, tokens => 5, headers => { 'Content-Length' => 100000 });
    sleep 0.1;
    $s->close;
    $f = logged($n, $s);
    is("$f->{reason} $f->{prompt} $f->{completion}", '- - -',
        'in the body: never submitted, no numbers');

    $s = ask($n, tokens => 100000, bytes => 1000);
    $f = logged($n, $s);
    is("$f->{status} $f->{reason} $f->{prompt}", '200 slow_reader 7', 'llm_send_timeout');
    cmp_ok($f->{completion}, '>', 10, 'llm_send_timeout: what was generated');
    cmp_ok($f->{completion}, '<', 50000, 'llm_send_timeout: the sequence was parked');
    $logged += $f->{completion};
    $s->close;

    # Random moments; the sum of the log is the engine's own count.
    my @open;
    for my $i (1 .. 200) {
        my $tokens = 1 + int rand 20;
        push @open, [ask($n, stream => rand() < 0.7 ? 'true' : 'false',
            tokens => $tokens, delay_ms => 5), time + rand 0.15, (values %leave)[rand 3]];
        sleep 0.002;
        @open = grep { $_->[1] > time || ($_->[2]->($_->[0]), push(@{ $n->{all} }, $_->[0]), 0)[-1] } @open;
    }
    for my $o (@open) {
        $o->[2]->($o->[0]);
        push @{ $n->{all} }, $o->[0];
    }
    idle($n, 'random aborts: the engine is idle');
    my %missing;
    for my $one (@{ $n->{all} }) {
        my $line = logged($n, $one);
        if (($line->{completion} // '-') eq '-') {
            # The request was on its way when its client left: nothing was asked.
            $missing{$one->{id}} = 1 if ($line->{reason} // '') ne '-';
            next;
        }
        $logged += $line->{completion};
    }
    is(join(' ', sort keys %missing), '', 'random aborts: each has its numbers');
    is($logged, metric($n, 'generation_tokens_total') - $before,
        'the log adds up to what the engine has generated');
    unlike($n->log, qr/has not ended a cancelled request/, 'no END was late');
    $n->stop->check_clean;
}

# ---- the engine is late, hangs, or is lost ---------------------------------------
{
    my $n = server(location => 'llm_read_timeout 300ms;',
        engine => 'shutdown_timeout 1s;')->start->wait_ready;

    my $t = time;
    my $s = ask($n, hang => 'request');
    my $r = $s->finish;
    is($r->{status}, 504, 'llm_read_timeout before the head');
    cmp_ok(time - $t, '<', 0.9, 'an engine that is well answers the CANCEL at once');
    my $f = logged($n, $s);
    is("$f->{status} $f->{reason} $f->{prompt} $f->{completion}", '504 engine_lost 7 0',
        'and says what it has cost');

    $s = ask($n, tokens => 3, delay_ms => 1000);
    $r = $s->finish;
    like($r->{body}, qr/tok0 .*"code":"timeout"\}\}\n\n\z/s, 'llm_read_timeout in a stream');
    $f = logged($n, $s);
    is("$f->{status} $f->{reason} $f->{prompt} $f->{completion}", '200 engine_lost 7 1',
        'and one token was generated');

    $t = time;
    $s = ask($n, hang => 'request', ignore_cancel => 'true');
    is($s->finish->{status}, 504, 'an engine that does not END: 504 all the same');
    cmp_ok(time - $t, '>', 1.2, 'after a second');
    cmp_ok(time - $t, '<', 4, 'and not much later');
    $n->stop('TERM')->check_clean;
}

{
    my $n = server()->start->wait_ready;
    my $s = ask($n, tokens => 200, delay_ms => 20, ignore_cancel => 'true');
    $s->read_until(qr/tok3 /);
    my $t = time;
    $s->close;
    my $f = logged($n, $s);
    my $took = time - $t;
    is("$f->{status} $f->{reason} $f->{prompt} $f->{completion}", '200 client_abort - -',
        'no END: logged without numbers');
    cmp_ok($took, '>', 0.7, 'no END: after a second');
    cmp_ok($took, '<', 3, 'no END: and not much later');
    like($n->log, qr/has not ended a cancelled request/, 'no END: told in the log');
    is($n->chat->{status}, 200, 'no END: others are served');

    # The engine dies while it is waited for.
    $s = ask($n, tokens => 500, delay_ms => 20, ignore_cancel => 'true');
    $s->read_until(qr/tok3 /);
    $s->close;
    ok($n->wait_for(sub { $n->log =~ /cancel request $s->{id}/ }), 'engine killed in the wait');
    $t = time;
    kill 'KILL', $n->engine;
    $f = logged($n, $s);
    cmp_ok(time - $t, '<', 0.6, 'the wait ends with it');
    is("$f->{reason} $f->{completion}", 'client_abort -', 'and the client had left');
    $n->served('the next engine serves');

    # A stopped engine.
    $s = ask($n, tokens => 500, delay_ms => 20);
    $s->read_until(qr/tok3 /);
    kill 'STOP', $n->engine;
    $s->close;
    $f = logged($n, $s);
    is("$f->{reason} $f->{completion}", 'client_abort -', 'a stopped engine: after a second');
    kill 'CONT', $n->engine;
    $n->served('and goes on');

    # A reload while requests are waiting for END, then the end of nginx.
    my @s = map { ask($n, tokens => 500, delay_ms => 20, ignore_cancel => 'true') } 1 .. 5;
    $_->read_until(qr/tok1 /) for @s;
    $_->close for @s;
    my ($old) = $n->workers;
    ok($n->reload, 'a reload in the wait');
    is(scalar(grep { logged($n, $_)->{reason} eq 'client_abort' } @s), 5, 'all are logged');
    ok($n->wait_for(sub { !LLM::Nginx::alive($old) }, 5), 'the old worker leaves');
    $n->served('the new one serves');
    @s = map { ask($n, tokens => 500, delay_ms => 20, ignore_cancel => 'true') } 1 .. 5;
    $_->read_until(qr/tok1 /) for @s;
    $_->close for @s;
    $t = time;
    $n->stop->check_clean;
    cmp_ok(time - $t, '<', 6, 'nginx ends in the wait');
    is(scalar(grep { logged($n, $_)->{reason} eq 'client_abort' } @s), 5, 'all are logged');
}

# ---- in the module's own queue: the engine has not even accepted ------------------
{
    my $n = server(http => 'llm_queue 3; llm_connect_timeout 20s;',
        engine => 'handshake silent; shutdown_timeout 1s;')->start;
    for my $round (1 .. 3) {
        my @s = map { ask($n, tokens => 1) } 1 .. 3;
        my $full = ask($n, tokens => 1);
        is($full->finish->{status}, 503, "round $round: the queue is full");
        $_->close for @s;
        is(join(' ', map { my $f = logged($n, $_); "$f->{status}$f->{reason}$f->{completion}" } @s),
            join(' ', ('499client_abort-') x 3), "round $round: all leave it, nothing was asked");
    }
    my $s = ask($n, tokens => 1);
    ok(!$s->read_until(qr/HTTP/, 0.3), 'and there is room again');
    $s->close;
    $n->stop('TERM')->check_clean;
}

# ---- nginx cuts the request: worker_shutdown_timeout ------------------------------
{
    my $n = server(main => 'worker_shutdown_timeout 300ms;')->start->wait_ready;
    my @s = map { ask($n, tokens => 2000, delay_ms => 10,
        stream => $_ % 2 ? 'true' : 'false') } 1 .. 4;
    sleep 0.2;
    my ($old) = $n->workers;
    ok($n->reload, 'worker_shutdown_timeout');
    for my $s (@s) {
        my $f = logged($n, $s);
        is("$f->{reason} $f->{prompt}", 'client_abort 7', 'cut, with its numbers');
        cmp_ok($f->{completion} eq '-' ? 0 : $f->{completion}, '>', 5, 'what was generated');
    }
    ok($n->wait_for(sub { !LLM::Nginx::alive($old) }, 5), 'the worker is gone');
    $n->served('the next one serves');
    idle($n, 'the engine is idle');
    $n->stop->check_clean;
}

# ---- a mirror's copy goes with its request ----------------------------------------
{
    my $n = server(http => "server { listen 127.0.0.1:"
        . (my $port = LLM::Nginx::free_port()) . "; location = /copy { internal; llm_pass chat;"
        . " llm_endpoint chat_completions; } location / { mirror /copy;"
        . " access_log logs/full.log full; llm_pass chat; } }")->start->wait_ready;
    $n->{port} = $port;
    my $s = ask($n, tokens => 300, delay_ms => 10);
    $s->read_until(qr/tok5 /);
    is(metric($n, 'num_requests_running'), 2, 'a request and its copy');
    $s->close;
    idle($n, 'the client leaves, both end');
    my $f = logged($n, $s);
    is("$f->{reason} $f->{prompt}", 'client_abort 7', 'the request has its numbers');
    is($n->get('/v1/models')->{status}, 200, 'others are served');
    $n->stop->check_clean;
}

done_testing();
