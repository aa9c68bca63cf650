# process_hang.t - engines that hang are restarted, engines that die cost nothing,
# and workers that are told to go do not wait for either.
use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(sleep time);

require "$FindBin::Bin/lib/LLM/Nginx.pm";

# CPU seconds of processes so far.
sub cpu {
    my $ticks = 0;
    for my $pid (@_) {
        open my $f, '<', "/proc/$pid/stat" or next;
        my ($rest) = <$f> =~ /\) \S (.*)/;
        my @f = split ' ', $rest;
        $ticks += $f[10] + $f[11];
    }
    return $ticks / 100;
}

# A process that stands still, or whose step thread does: 503 first, then another.
for my $case (['stopped', 2], ['steps', 12]) {
    my ($how, $seconds) = @$case;
    my $n = LLM::Nginx->new(workers => 1, http => 'llm_engine_timeout 500ms;',
        engine => 'hang_timeout 2s;');
    $n->start->wait_ready;
    my $engine = $n->engine;
    my $s = $n->stream(tokens => 10000, delay_ms => 20);
    ok($s->read_until(qr/tok2 /), "$how: a stream runs");
    my $t = time;
    if ($how eq 'stopped') {
        kill 'STOP', $engine;
    } else {
        is($n->chat(hang => 'steps', ignore_cancel => 'true')->{status}, 503, "$how: 503");
    }
    ok($n->wait_for(sub { my $r = $n->get('/ready'); $r->{body} =~ /hanging/ }, 8),
        "$how: llm_health says so");
    ok($n->wait_for(sub { $n->log =~ /engine $engine hangs: no sign of life.*killed/ }, 25),
        "$how: the supervisor kills it");
    cmp_ok(time - $t, '>', $seconds - 0.5, "$how: not before its time");
    like($s->finish->{body}, qr/engine_lost/, "$how: the stream got an error event");
    $n->wait_ready(15);
    isnt($n->engine, $engine, "$how: another engine");
    $n->served("$how: serves");
    $n->stop->check_clean;
}

# Everything stopped together, as by a machine that sleeps: nobody is killed.
{
    my $n = LLM::Nginx->new(engine => 'hang_timeout 2s;');
    $n->start->wait_ready;
    my ($engine, $supervisor) = ($n->engine, $n->supervisor);
    kill 'STOP', $supervisor, $engine;
    sleep 3.5;
    kill 'CONT', $supervisor;
    sleep 0.3;
    kill 'CONT', $engine;
    sleep 1;
    is($n->engine, $engine, 'a supervisor that stood still gives its engine time');
    unlike($n->log, qr/hangs: no sign/, 'and says nothing');
    $n->served('it serves');
    $n->stop->check_clean;
}

# hang_timeout 0: never.
{
    my $n = LLM::Nginx->new(engine => 'hang_timeout 0;');
    my ($rc, $said) = $n->nginx('-t');
    is($rc, 0, 'hang_timeout 0 is possible');
    $n->write_conf(engines => { chat => 'hang_timeout 10ms;' });
    ($rc, $said) = $n->nginx('-t');
    like($said, qr/"hang_timeout" must be 0.*or at least 2000 ms/, '10 ms is not');
    $n->write_conf(engines => { chat => 'reload sometimes;' });
    ($rc, $said) = $n->nginx('-t');
    like($said, qr/takes "beside", "replace" or "keep", not "sometimes"/, 'reload has three values');
}

# An engine that dies at every start: pauses, an idle machine, the reason for all,
# also while it is being tried again.
{
    my $n = LLM::Nginx->new(engine => 'fail_start 1000; fail_delay 300; exit_code 9;');
    $n->start;
    ok($n->wait_for(sub { $n->log =~ /again in 2 s/ }), 'dies twice');
    my @pids = ($n->supervisor, $n->standby // 0, $n->workers, $n->master);
    my $used = cpu(@pids);
    my $t = time;
    my (%status, %state, @unexplained);
    $n->wait_for(sub {
        my $ready = $n->get('/ready');
        my ($state) = $ready->{body} =~ /"engines":\{"chat":"(\w+)"\}/;
        $state{$state // 'none'}++;
        push @unexplained, $ready->{body}
            if $ready->{body} !~ /"reasons":\{"chat":"it exited with code 9, it is started again in \d+ s/;
        $status{$ready->{status}}++;
        my $r = $n->chat;
        $status{$r->{status}}++;
        $status{'no Retry-After'}++ if $r->{head} !~ /^Retry-After: [1-9]/m;
        sleep 0.1;
        return time - $t > 4;
    }, 20);
    is(join(',', sort keys %status), '503', '503 with Retry-After for everybody');
    cmp_ok(cpu(@pids) - $used, '<', 0.3, 'and nearly no CPU time');
    is(join(',', sort keys %state), 'connecting,failed', 'llm_health says whether it is tried just now');
    is($unexplained[0], undef, 'and why and when in either state');
    ok($n->wait_for(sub { $n->chat->{body} =~ /"message":"The engine does not run now: it exited with code 9, / }),
        'so does the 503');
    my @warned = $n->log =~ /\[warn\].*does not run: /g;
    ok(@warned <= 2, 'each worker says it once') or diag(scalar @warned);
    $n->stop->check_clean;
}

# worker_shutdown_timeout cuts a stream; the engine notices and nothing is left.
{
    my $n = LLM::Nginx->new(main => 'worker_shutdown_timeout 1s;');
    $n->start->wait_ready;
    my $engine = $n->engine;
    my $before = $n->holdings;
    my $s = $n->stream(tokens => 10000, delay_ms => 20);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    my $t = time;
    $n->reload;
    ok($s->read_until(undef, 6), 'worker_shutdown_timeout cuts it');
    cmp_ok(time - $t, '<', 4, 'in time');
    is($n->engine, $engine, 'the engine stays');
    $n->served('and serves');
    $n->check_holdings($before, 'nothing has leaked');
    $n->stop->check_clean;
}

# TERM does not wait for a stream.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my $s = $n->stream(tokens => 10000, delay_ms => 20);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    my $t = time;
    $n->stop('TERM');
    ok($s->read_until(undef, 3), 'TERM ends it');
    cmp_ok(time - $t, '<', 4, 'soon');
    $n->check_clean;
}

# Reloads, killed workers and killed engines leave nothing behind.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    $n->chat for 1 .. 4;
    my $before = $n->holdings;
    like($before, qr/^engine memfd mapped: 4$/m, 'two regions for each of two workers');
    for my $i (1 .. 3) {
        $n->reload;
        $n->chat;
    }
    $n->check_holdings($before, 'three reloads');
    kill 'KILL', ($n->workers)[0];
    $n->check_holdings($before, 'a killed worker');
    kill 'KILL', $n->engine;
    $n->wait_ready(15);
    $n->check_holdings($before, 'a killed engine');
    kill 'KILL', $n->supervisor;
    $n->wait_ready(15);
    $n->check_holdings($before, 'a killed supervisor');
    $n->write_conf(engines => { chat => 'max_model_len 4;' });
    $n->reload;
    ok($n->wait_for(sub { $n->log =~ /is ready and takes over/ && $n->supervisors == 1 }), 'replaced');
    $n->check_holdings($before, 'a replaced engine');
    $n->stop->check_clean(except => qr/exited on signal 9/);
}

done_testing();
