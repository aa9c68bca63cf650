# process_change.t - a reload with other engine options: the new engine takes over
# when it is ready, and nobody notices.
use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(sleep time);

require "$FindBin::Bin/lib/LLM/Nginx.pm";

# Requests one after the other until $done; what they were answered.
sub ask_until {
    my ($n, $done, $seconds) = @_;
    my (%status, $last);
    $n->wait_for(sub {
        my $r = $n->chat(tokens => 1);
        $last = $r;
        $status{ $r ? $r->{status} : 'none' }++;
        return $done->();
    }, $seconds || 15);
    return wantarray ? (\%status, $last) : \%status;
}

# The new engine is loading for a second while requests come and streams run.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my ($old, $old_supervisor) = ($n->engine, $n->supervisor);
    my $before = $n->stream(tokens => 60, delay_ms => 50);
    ok($before->read_until(qr/tok2 /), 'a stream runs');

    $n->write_conf(engines => { chat => 'start_delay 1000; max_model_len 77;' });
    $n->reload;
    ok($n->wait_for(sub { $n->supervisors == 2 && $n->engines == 2 }), 'two engines');
    is($n->get('/ready')->{status}, 200, 'ready all the time');
    my $during = $n->stream(tokens => 60, delay_ms => 40);
    ok($during->read_until(qr/tok2 /), 'a stream that begins meanwhile runs');

    my $status = ask_until($n, sub { $n->log =~ /is ready and takes over/ });
    is(join(',', sort keys %$status), '200', 'nothing but 200 while the new one loads');
    ok($status->{200} > 5, 'asked often enough') or diag($status->{200});
    $status = ask_until($n, sub { !LLM::Nginx::alive($old_supervisor) });
    is(join(',', sort keys %$status), '200', 'nothing but 200 while the old one goes');

    like($before->finish->{body}, qr/tok59 .*\[DONE\]/s, 'the first stream is whole');
    like($during->finish->{body}, qr/tok59 .*\[DONE\]/s, 'so is the second');
    ok(!LLM::Nginx::alive($old), 'the old engine has ended');
    is(scalar($n->supervisors), 1, 'one is left');
    isnt($n->engine, $old, 'the new one');
    my @sockets = glob "$n->{dir}/chat.sock.*";
    is(scalar @sockets, 2, 'with its two sockets') or diag("@sockets");
    is($n->chat->{status}, 200, 'and it serves');

    my $engine = $n->engine;
    $n->reload;
    is($n->engine, $engine, 'a reload with the same options keeps it');
    $n->stop->check_clean;
    unlike($n->log, qr/\[error\]/, 'no error in the log');
}

# Requests whose body arrives slowly, across the hand-over, on an old worker.
{
    my $n = LLM::Nginx->new(workers => 1);
    $n->start->wait_ready;
    my $old = $n->engine;
    my $text = LLM::Nginx::request_text('/v1/chat/completions', body => LLM::Nginx::body(tokens => 3));
    my $s = $n->connect;
    print {$s} substr $text, 0, length($text) - 20;
    $s->flush;
    $n->write_conf(engines => { chat => 'max_model_len 78;' });
    $n->reload;
    ok($n->wait_for(sub { $n->log =~ /is ready and takes over/ }), 'the new one is ready');
    is($n->chat->{status}, 200, 'new requests are answered');
    ok(LLM::Nginx::alive($old), 'the old engine waits for its worker');
    print {$s} substr $text, -20;
    $s->flush;
    my $r = LLM::Nginx::Stream::finish(bless { socket => $s, data => '' }, 'LLM::Nginx::Stream');
    like($r->{body}, qr/tok2 .*\[DONE\]/s, 'and answers the request that was on its way');
    ok($n->wait_for(sub { !LLM::Nginx::alive($old) }), 'then it ends');
    $n->stop->check_clean;
}

# The new one cannot start: the old one goes on, the log says what to do.
for my $case ([78, 'exit_code 78;', 1], [5, 'exit_code 5;', 3]) {
    my ($code, $how, $tries) = @$case;
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my $old = $n->engine;
    $n->write_conf(engines => { chat => "fail_start 1000; $how" });
    $n->reload;
    my $status = ask_until($n, sub { $n->log =~ /cannot start with its new options/ });
    is(join(',', sort keys %$status), '200', "code $code: requests are served");
    my @said = $n->log =~ /\[error\].*exited with code $code/g;
    is(scalar @said, $tries, "code $code: tried $tries times");
    like($n->log, qr/the one with the old options goes on serving: correct.*reload replace/,
        "code $code: the log says what to do");
    is(($n->engines)[0], $old, "code $code: the old engine runs");
    is($n->get('/ready')->{status}, 200, "code $code: ready");

    # A worker that is started now knows both, too.
    my ($worker) = $n->workers;
    kill 'KILL', $worker;
    ok($n->wait_for(sub { my @w = $n->workers; @w == 2 && !grep { $_ == $worker } @w }),
        'a worker is killed and replaced');
    my %later;
    $later{ $n->chat->{status} }++ for 1 .. 10;
    is(join(',', keys %later), '200', "code $code: still served");

    # Corrected: takes over from the old one, though another stood between.
    $n->write_conf(engines => { chat => 'max_model_len 79; start_delay 300;' });
    $n->reload;
    $status = ask_until($n, sub { $n->log =~ /is ready and takes over/ && !LLM::Nginx::alive($old) });
    is(join(',', sort keys %$status), '200', "code $code: corrected without an error");
    is(scalar($n->engines), 1, "code $code: one engine is left");
    $n->stop->check_clean(except => qr/exited on signal 9/);
}

# A binary that is not there: nothing is started, the old one goes on.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my $old = $n->engine;
    $n->write_conf(engines => {}, http => "llm_engine chat { binary /nonexistent; "
        . "socket $n->{dir}/chat.sock; }");
    $n->reload;
    like($n->log, qr/\[error\].*the one with the old options goes on serving/, 'the log says so');
    is($n->engine, $old, 'the old engine stays');
    is($n->chat->{status}, 200, 'and serves');
    $n->write_conf(engines => { chat => '' }, http => '');
    $n->reload;
    is($n->engine, $old, 'the old options again: still the same');
    is($n->chat->{status}, 200, 'and serves');
    $n->stop->check_clean;
}

# Two changes in quick succession: only the last one remains.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my $first = $n->engine;
    $n->write_conf(engines => { chat => 'start_delay 3000; max_model_len 2;' });
    $n->reload;
    ok($n->wait_for(sub { $n->engines == 2 }), 'a second engine loads');
    $n->write_conf(engines => { chat => 'start_delay 500; max_model_len 3;' });
    $n->reload;
    my $status = ask_until($n, sub { $n->log =~ /is ready and takes over/ && $n->supervisors == 1 });
    is(join(',', sort keys %$status), '200', 'two changes: nothing but 200');
    ok(!LLM::Nginx::alive($first), 'the first is gone');
    open my $f, '<', '/proc/' . $n->engine . '/cmdline';
    like(join('', <$f>), qr/--max-model-len\0003\0/, 'the last options count');
    $n->stop->check_clean;
}

# And back to the old options, before and after the new engine is ready.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my $old = $n->engine;
    $n->write_conf(engines => { chat => 'start_delay 5000; max_model_len 2;' });
    $n->reload;
    ok($n->wait_for(sub { $n->engines == 2 }), 'a second engine loads');
    $n->write_conf(engines => { chat => '' });
    $n->reload;
    my $status = ask_until($n, sub { $n->supervisors == 1 });
    is(join(',', sort keys %$status), '200', 'back before it is ready: nothing but 200');
    is($n->engine, $old, 'it is the old engine, with its weights');
    $n->reload;
    is($n->engine, $old, 'also after one more reload');

    $n->write_conf(engines => { chat => 'max_model_len 2;' });
    $n->reload;
    ok($n->wait_for(sub { $n->log =~ /is ready and takes over/ }), 'another one takes over');
    $n->write_conf(engines => { chat => '' });
    $n->reload;
    $status = ask_until($n, sub { $n->supervisors == 1 && (() = $n->log =~ /is ready and takes over/g) == 2 });
    is(join(',', sort keys %$status), '200', 'back after it was ready: nothing but 200');
    is($n->chat->{status}, 200, 'and it serves');
    $n->stop->check_clean;
}

# "reload replace": the old one ends first; 503 with Retry-After in between.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my $old = $n->engine;
    my $s = $n->stream(tokens => 40, delay_ms => 40);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    $n->write_conf(engines => { chat => 'reload replace; start_delay 500; max_model_len 2;' });
    $n->reload;
    my ($two, %seen) = (0);
    my $done = $n->wait_for(sub {
        $two = 1 if $n->engines > 1;
        my $r = $n->chat(tokens => 1);
        $seen{ $r->{status} }++;
        $seen{'no Retry-After'}++ if $r->{status} == 503 && $r->{head} !~ /^Retry-After: \d/m;
        return $r->{status} == 200 && !LLM::Nginx::alive($old);
    }, 20);
    ok($done, 'replaced');
    like($s->finish->{body}, qr/tok39 .*\[DONE\]/s, 'the stream is whole');
    ok(!$two, 'never two at once');
    is(join(',', grep { !/^(?:200|503)$/ } keys %seen), '', '503 with Retry-After meanwhile');
    ok($seen{503}, 'there was such a time');
    $n->stop->check_clean;
}

# A supervisor that may not write where the sockets are: the master sweeps.
SKIP: {
    skip 'needs root', 5 if $> != 0;
    my $n = LLM::Nginx->new;
    chmod 0755, $n->{dir};
    $n->write_conf(engines => { chat => 'user nobody;' });
    $n->start->wait_ready;
    for my $i (1, 2) {
        $n->write_conf(engines => { chat => "user nobody; max_model_len $i;" });
        $n->reload;
        ok($n->wait_for(sub { $i == (() = $n->log =~ /is ready and takes over/g)
            && $n->supervisors == 1 }), "another engine of another user ($i)");
    }
    $n->reload;
    my @sockets = glob "$n->{dir}/chat.sock.*";
    is(scalar @sockets, 2, 'the sockets of the first two are gone') or diag("@sockets");
    $n->stop->check_clean;
}

# Settings that are nginx's own change without a new engine.
{
    my $n = LLM::Nginx->new(engine => 'ignore_term; shutdown_timeout 100s;');
    $n->start->wait_ready;
    my $old = $n->engine;
    $n->write_conf(engines => { chat => 'ignore_term; shutdown_timeout 500ms;' });
    $n->reload;
    is($n->engine, $old, 'another shutdown_timeout: the same engine');
    my $t = time;
    $n->stop->check_clean;
    ok(time - $t < 6, 'and it counts');
}

# master_process off: nginx has no free connections after a reload (see
# process_reload.t), but the engines come and go as they should.
{
    my $n = LLM::Nginx->new(master => 'off');
    $n->start->wait_ready;
    my $old = $n->engine;
    $n->write_conf(engines => { chat => 'max_model_len 5;' });
    kill 'HUP', $n->master;
    ok($n->wait_for(sub { $n->log =~ /is ready and takes over/ }), 'master_process off: takes over');
    ok($n->wait_for(sub { !LLM::Nginx::alive($old) }, 15), 'the old one ends');
    $n->stop('TERM')->check_clean(except => qr/worker_connections are not enough/);
}

done_testing();
