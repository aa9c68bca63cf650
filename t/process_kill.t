# process_kill.t - kill -9 of every party: service comes back, nothing is left.
use strict;
use warnings;

use FindBin;
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

my $n = LLM::Nginx->new;
$n->start->wait_ready;

# A worker: the engine drops its requests, the master starts another.
{
    my $s = $n->stream(tokens => 1000, delay_ms => 20);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    my ($engine, @old) = ($n->engine, $n->workers);
    kill 'KILL', @old;
    ok($s->read_until(undef), 'worker killed: its client is cut off');
    ok($n->wait_for(sub { my $r = $n->chat; $r && $r->{status} == 200 }), 'service is back');
    is($n->engine, $engine, 'the engine has not noticed');
}

# The engine: one error event and the end of the connection, then 503, then back.
{
    my $s = $n->stream(tokens => 1000, delay_ms => 20);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    my $waiting = $n->stream(hang => 'true');
    my $engine = $n->engine;
    select undef, undef, undef, 0.1;
    kill 'KILL', $engine;
    my $r = $s->finish;
    like($r->{body}, qr/tok2 .*\n\ndata: \{"error":\{.*"code":"engine_lost"\}\}\n\n\z/s,
        'engine killed: one error event');
    unlike($r->{body}, qr/\[DONE\]/, 'no [DONE]');
    ok($r->{eof}, 'and the connection is closed');
    $r = $waiting->finish;
    is($r->{status}, 503, 'before the first byte: 503');
    like($r->{head}, qr/^Retry-After: \d+\r?$/m, 'with Retry-After');
    like($r->{body}, qr/^\{"error":\{.*"code":"engine_lost"/, 'as JSON');
    $n->wait_ready(15);
    isnt($n->engine, $engine, 'the supervisor has started another');
    $n->served('which serves');
}

# The supervisor: its engine dies with it, its standby takes over.
for my $round (1, 2) {
    my ($supervisor, $standby, $engine) = ($n->supervisor, $n->standby, $n->engine);
    my $s = $n->stream(tokens => 1000, delay_ms => 20);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    kill 'KILL', $supervisor;
    like($s->finish->{body}, qr/engine_lost/, "supervisor killed ($round): error event");
    ok($n->wait_for(sub { ($n->supervisor || 0) == $standby && $n->engine }),
        'the standby is the supervisor');
    ok(!LLM::Nginx::alive($engine), 'the old engine died');
    $n->wait_ready(15);
    $n->served('service is back');
    ok($n->standby, 'there is a new standby');
}

# The standby: replaced, nobody notices.
{
    my ($standby, $engine) = ($n->standby, $n->engine);
    kill 'KILL', $standby;
    ok($n->wait_for(sub { my $p = $n->standby; $p && $p != $standby }),
        'standby killed: there is another');
    is($n->engine, $engine, 'the engine has not noticed');
}

# Supervisor and standby at once: gone until the next reload.
{
    kill 'KILL', $n->standby, $n->supervisor;
    ok($n->wait_for(sub { !$n->engine && !$n->supervisor }), 'both killed: no engine');
    my $r = $n->chat;
    is($r->{status}, 503, 'requests get 503');
    $n->reload;
    $n->wait_ready(15);
    $n->served('a reload starts another');
}
$n->stop->check_clean(except => qr/exited on signal 9/);

# The master: engine, supervisor and workers go with it.
{
    my $m = LLM::Nginx->new;
    $m->start->wait_ready;
    my $s = $m->stream(tokens => 20, delay_ms => 20);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    my ($master, @workers) = ($m->master, $m->workers);
    kill 'KILL', $master;
    like($s->finish->{body}, qr/tok19 .*\[DONE\]/s, 'master killed: the stream is finished');
    ok($m->wait_for(sub { !grep { LLM::Nginx::alive($_) } @workers }), 'workers leave');
    ok($m->wait_for(sub { !$m->left }), 'engine and supervisor leave');
    is(join('', glob "$m->{dir}/*.sock*"), '', 'no socket is left');
    $m->start->wait_ready;
    $m->served('another nginx can start');
    $m->stop->check_clean;
}

# An engine that does not end in time is killed.
{
    my $m = LLM::Nginx->new(engine => 'ignore_term; shutdown_timeout 500ms;');
    $m->start->wait_ready;
    $m->stop->check_clean;
    like($m->log, qr/has not finished in time, killed/, 'the log says so');
}

done_testing();
