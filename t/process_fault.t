# process_fault.t - engines that do not start, hang, lie, or are of another version.
use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(sleep time);

require "$FindBin::Bin/lib/LLM/Nginx.pm";

# Loading: nginx serves, requests get 503, then all is well.
{
    my $n = LLM::Nginx->new(engine => 'start_delay 1500;');
    $n->start;
    my $r = $n->wait_for(sub { my $x = $n->chat; $x && $x->{body} =~ /loading/ && $x });
    is($r->{status}, 503, 'loading: 503');
    like($r->{head}, qr/^Retry-After: \d+/m, 'with Retry-After');
    like($n->get('/ready')->{body}, qr/"chat":"loading"/, 'llm_health ready says so');
    is($n->get('/live')->{status}, 200, 'llm_health live is 200');
    $n->wait_ready;
    $n->served('then it serves');
    $n->stop->check_clean;
}

# Dies at every start: back-off, CPU idle, the reason in the log, nginx serves.
{
    my $n = LLM::Nginx->new;
    $n->write_conf(engines => { chat => "fail_start 2; fail_file $n->{dir}/starts; exit_code 5;" });
    $n->start;
    my $t = time;
    my $r = $n->chat;
    is($r->{status}, 503, 'engine that dies: 503');
    like($r->{body}, qr/"type":"server_error"/, 'as JSON');
    ok(time - $t < 4, 'soon');
    $n->wait_ready(15);
    my @starts = $n->log =~ /engine \d+ exited with code 5/g;
    is(scalar @starts, 2, 'two starts failed');
    like($n->log, qr/again in 1 s.*again in 2 s/s, 'with growing pauses');
    $n->stop->check_clean;
}

# Exit code 78: not retried before a reload.
{
    my $n = LLM::Nginx->new;
    $n->write_conf(engines => { chat => "fail_start 1; fail_file $n->{dir}/starts; exit_code 78;" });
    $n->start;
    ok($n->wait_for(sub { $n->log =~ /configuration is wrong/ }), 'code 78 is reported');
    sleep 1.5;
    ok(!$n->engine, 'and not retried');
    is($n->chat->{status}, 503, 'requests get 503');
    my $t = time;
    is($n->chat->{status}, 503, 'the next one too');
    ok(time - $t < 0.5, 'and at once');
    my $ready = $n->get('/ready')->{body};
    like($ready, qr/"engines":\{"chat":"failed"\},"reasons":\{"chat":"it exited with code 78/,
        'llm_health ready says why');
    like($n->chat->{body}, qr/does not run now: it exited with code 78/, 'so does the 503');
    $n->reload;
    $n->wait_ready;
    $n->served('a reload tries again');
    $n->stop->check_clean;
}

# Options that have served are not wrong: after a crash the device or its memory
# may not be back at once.
{
    my $n = LLM::Nginx->new;
    my $starts = "$n->{dir}/starts";
    open my $f, '>', $starts or die;
    print $f '1';
    close $f;
    $n->write_conf(engines => { chat => "fail_start 1; fail_file $starts; exit_code 78;" });
    $n->start;
    $n->wait_ready;
    unlink $starts or die;
    kill 'KILL', $n->engine;
    ok($n->wait_for(sub { $n->log =~ /exited with code 78/ }), 'an engine that served fails with code 78');
    ok($n->wait_for(sub { 3 == (() = $n->log =~ /engine \d+ started/g) }), 'it is started again');
    $n->wait_ready;
    $n->served('and serves');
    unlike($n->log, qr/configuration is wrong/, 'it was never given up');
    $n->stop->check_clean;
}

# A reload while the engine is on its way to exit code 78 may have brought the
# file that was missing: it counts, whichever of the two comes first.
{
    my $n = LLM::Nginx->new;
    $n->write_conf(engines => { chat => "fail_start 1; fail_file $n->{dir}/starts; "
        . 'fail_delay 700; exit_code 78;' });
    $n->start;
    ok($n->wait_for(sub { $n->engine }), 'it has been started, and will fail');
    $n->reload;
    unlike($n->log, qr/exited with code 78/, 'a reload comes before it has failed');
    ok($n->wait_for(sub { $n->log =~ /exited with code 78/ }), 'then it fails');
    $n->wait_ready;
    $n->served('it is started once more, without another reload');
    unlike($n->log, qr/configuration is wrong/, 'and was never given up');
    $n->stop->check_clean;
}

# Exit code 78, and the reload brings other options: those are tried.
{
    my $n = LLM::Nginx->new;
    $n->write_conf(engines => { chat =>
        "fail_start 1000; fail_file $n->{dir}/starts; exit_code 78;" });
    $n->start;
    ok($n->wait_for(sub { $n->log =~ /configuration is wrong/ }), 'given up');
    $n->reload;
    ok($n->wait_for(sub { 2 == (() = $n->log =~ /(configuration is wrong)/g) }), 'and again');
    $n->write_conf(engines => { chat => '' });
    $n->reload;
    $n->wait_ready;
    $n->served('corrected options are used by a reload');
    unlike($n->log, qr/until nginx is restarted/, 'and nothing else is said');
    $n->stop->check_clean;
}

# An external engine: the log says why it cannot be reached, each new reason.
{
    my $n = LLM::Nginx->new;
    my $path = "$n->{dir}/external.sock";
    $n->write_conf(engines => { chat => "server unix:$path;" });
    $n->start;
    ok($n->wait_for(sub { $n->log =~ /\[warn\].*is not there.*No such file/ }),
        'no socket yet');
    open my $f, '>', $path or die $!;
    close $f;
    ok($n->wait_for(sub { $n->chat; $n->log =~ /\[warn\].*is not there.*refused/ }),
        'then something that is none');
    unlink $path;
    $n->stop->check_clean;
}

# Hand-shakes that fail: one clear line, 503, nginx goes on.
for my $case (
    ['refuse', qr/refuses this worker/], ['version', qr/do not fit/],
    ['files', qr/memory is not sealed/],
    ['garbage', qr/do not fit|refuses|broke the protocol|WELCOME|is gone/],
    ['silent', qr/has not answered/], ['deaf', qr/has not answered/],
) {
    my ($how, $want) = @$case;
    my $n = LLM::Nginx->new(engine => "handshake $how; shutdown_timeout 1s;", workers => 1,
        http => 'llm_connect_timeout 300ms;');
    $n->start;
    my $r = $n->chat;
    is($r->{status}, 503, "$how: 503");
    ok($n->wait_for(sub { $n->log =~ $want }), "$how: the log says why");
    sleep 0.3;
    my $t = time;
    is($n->chat->{status}, 503, "$how: 503 again");
    ok(time - $t < 1, "$how: soon");
    isnt($n->get('/ready')->{status}, 200, "$how: not ready");
    $n->stop('TERM')->check_clean;
}

# A peer that breaks the protocol: one alert, the session ends, a new one begins.
for my $how (qw(cq len id tail head end no_head two_heads two_ends sq_head)) {
    my $n = LLM::Nginx->new(workers => 1);
    $n->start->wait_ready;
    my $bystander = $n->stream(hang => 'true');
    my $r = $n->stream(tokens => 10, delay_ms => 10, corrupt => $how)->finish(10);
    ok($r, "corrupt $how: the client gets an end");
    ok($n->wait_for(sub { my $x = $n->chat; $x && $x->{status} == 200 }),
        "corrupt $how: service is back");
    my @alerts = $n->log =~ /\[alert\].*broke the protocol.*/g;
    ok(@alerts <= 1, "corrupt $how: at most one alert") or diag("@alerts");
    $bystander->close;
    $n->stop('TERM')->check_clean(except => qr/broke the protocol/);
}

# Hung: the process stands still, or only its step thread.
for my $case (['process', '', qr/no heartbeat/], ['steps', '', qr/no step finished/]) {
    my ($how, undef, $want) = @$case;
    my $n = LLM::Nginx->new(workers => 1, http => 'llm_engine_timeout 600ms;',
        engine => 'shutdown_timeout 1s;');
    $n->start->wait_ready;
    my $s = $n->stream(tokens => 200, delay_ms => 20);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    my $r = $n->chat(hang => $how, hang_ms => 8000);
    is($r->{status}, 503, "hang $how: 503 before the first byte");
    like($r->{head}, qr/^Retry-After: \d+/m, "hang $how: with Retry-After");
    like($n->log, $want, "hang $how: the log says how");
    if ($how eq 'process') {
        like($s->finish->{body}, qr/engine_lost/, 'hang process: error event in the stream');
        is($n->chat->{status}, 503, 'hang process: refused');
        like($n->get('/ready')->{body}, qr/hanging/, 'hang process: not ready');
        ok($n->wait_for(sub { my $x = $n->chat; $x && $x->{status} == 200 }, 15),
            'hang process: it moves again, served again');
    }
    $s->close;
    $n->stop('TERM')->check_clean;
}

# An external engine, by hand: gone and back.
{
    my $n = LLM::Nginx->new(engines => {});
    my $socket = "$n->{dir}/ext.sock";
    $n->write_conf(engines => { chat => "server unix:$socket;" });
    $n->start;
    is($n->chat->{status}, 503, 'external engine that is not there: 503');
    my $pid;
    my $run = sub {
        $pid = fork // die;
        if ($pid == 0) {
            open STDERR, '>>', "$n->{dir}/logs/engine.log";
            exec $n->{binary}, '--socket', $socket;
            exit 127;
        }
    };
    $run->();
    $n->wait_ready(15);
    $n->served('started by hand: served');
    kill 'KILL', $pid;
    waitpid $pid, 0;
    is($n->chat->{status}, 503, 'killed: 503');
    $run->();
    $n->wait_ready(15);
    $n->served('started again: served');
    $n->stop;
    ok(kill(0, $pid), 'nginx leaves it alone');
    kill 'TERM', $pid;
    waitpid $pid, 0;
    $n->check_clean;
}

done_testing();
