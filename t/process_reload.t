# process_reload.t - a reload keeps the engine and every stream; engines come and go.
use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(sleep);

require "$FindBin::Bin/lib/LLM/Nginx.pm";

# Ten reloads during 20 streams.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my ($engine, $supervisor) = ($n->engine, $n->supervisor);
    my @streams;
    for my $i (1 .. 20) {
        push @streams, $n->stream(tokens => 60, delay_ms => 40);
        if ($i % 2 == 0) {
            ok($n->reload, 'reload ' . $i / 2);
            sleep 0.1;
        }
    }
    my $whole = 0;
    for my $s (@streams) {
        my $r = $s->finish;
        $whole++ if $r && $r->{complete} && $r->{body} =~ /tok0 .*tok59 .*\[DONE\]/s;
    }
    is($whole, 20, 'all 20 streams are whole');
    is($n->engine, $engine, 'the engine is the same process');
    is($n->supervisor, $supervisor, 'so is its supervisor');
    is($n->chat->{status}, 200, 'and a request is served');
    ok($n->wait_for(sub { $n->workers == 2 }), 'old workers have gone');
    $n->stop->check_clean;
}

# No request is refused because a worker is new.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my %status;
    for my $i (1 .. 60) {
        kill 'HUP', $n->master if $i % 10 == 1;
        my $r = $n->chat(tokens => 1);
        $status{ $r ? $r->{status} : 'none' }++;
    }
    is(join(',', %status), '200,60', '60 requests between 6 reloads are answered');
    $n->stop->check_clean;
}

# Other options with "reload keep": the engine stays and the log says what to do.
# What becomes of them otherwise: process_change.t.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my $engine = $n->engine;
    $n->write_conf(engines => { chat => 'reload keep; max_model_len 77;' });
    $n->reload;
    like($n->log, qr/\[warn\].*options of engine "chat" have changed/, 'a warning');
    is($n->engine, $engine, 'the engine stays');
    is($n->chat->{status}, 200, 'and serves');

    $n->write_conf(engines => { chat => '' }, http => 'nonsense;');
    $n->reload;
    like($n->log, qr/unknown directive "nonsense"/, 'a failing reload');
    is($n->engine, $engine, 'changes nothing');
    is($n->chat->{status}, 200, 'the engine serves');
    $n->write_conf(http => '');
    $n->stop->check_clean(except => qr/unknown directive/);
}

# Engines added and removed.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my $engine = $n->engine;
    $n->write_conf(engines => { chat => '', second => '' },
        location => '} location /two/ { llm_pass second;');
    $n->reload;
    ok($n->wait_for(sub { $n->engine('second') }), 'an engine is added by reload');
    ok($n->wait_for(sub { my $r = $n->get('/two/v1/models'); $r && $r->{status} == 200 }),
        'and serves');
    is($n->engine, $engine, 'the first one stays');
    my $text = LLM::Nginx::request_text('/two/v1/chat/completions',
        body => LLM::Nginx::body(tokens => 40, delay_ms => 40));
    my $s = LLM::Nginx::Stream->new($n, $text);
    ok($s->read_until(qr/tok2 /), 'a stream runs on it');
    $n->write_conf(engines => { chat => '' }, location => '');
    $n->reload;
    like($s->finish->{body}, qr/tok39 .*\[DONE\]/s, 'a reload without it lets the stream finish');
    ok($n->wait_for(sub { !$n->engine('second') && !$n->supervisor('second') }),
        'it is removed by reload');
    ok($n->wait_for(sub { !glob "$n->{dir}/second.sock*" }), 'with its socket');
    is($n->engine, $engine, 'the first one stays');
    is($n->chat->{status}, 200, 'and serves');

    # The module itself goes; its code is unmapped while the master lives on.
    $n->write_conf(no_module => 1);
    $n->reload;
    ok($n->wait_for(sub { !$n->left || !grep { $_->[2] =~ /mock-engine/ } $n->left }),
        'load_module removed: the engine leaves');
    ok($n->master, 'the master lives');
    $n->write_conf(no_module => 0);
    $n->reload;
    $n->wait_ready;
    $n->served('load_module again: served again');
    $n->stop->check_clean;
}

# A new engine is attached to when another master has started it.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my ($engine, $old) = ($n->engine, $n->master);
    my $s = $n->stream(tokens => 50, delay_ms => 40);
    ok($s->read_until(qr/tok2 /), 'a stream runs');
    kill 'USR2', $old;
    ok($n->wait_for(sub { my $m = $n->master; $m && $m != $old }), 'USR2: a new master');
    ok($n->wait_for(sub { $n->log =~ /attached to supervisor/ }), 'attaches');
    ok($n->wait_for(sub { $n->workers == 2 }), 'and has workers');
    kill 'QUIT', $old;
    my $r = $s->finish;
    like($r->{body}, qr/\[DONE\]/, 'the old one finishes its stream');
    ok($n->wait_for(sub { !LLM::Nginx::alive($old) }), 'and leaves');
    is($n->engine, $engine, 'the engine is the same process');
    ok($n->wait_for(sub { my $c = $n->chat; $c && $c->{status} == 200 }), 'and serves');
    $n->stop->check_clean;
}

# Roll-back: the new master leaves, the old one goes on.
{
    my $n = LLM::Nginx->new;
    $n->start->wait_ready;
    my ($engine, $old) = ($n->engine, $n->master);
    kill 'USR2', $old;
    ok($n->wait_for(sub { my $m = $n->master; $m && $m != $old && $n->workers == 2 }),
        'a new master');
    my $new = $n->master;
    kill 'QUIT', $new;
    ok($n->wait_for(sub { !LLM::Nginx::alive($new) && ($n->master || 0) == $old }),
        'is sent away');
    is($n->engine, $engine, 'the engine is the same process');
    is($n->chat->{status}, 200, 'and serves the old one');
    $n->stop->check_clean;
}

# master_process off: nginx itself serves nothing after such a reload (it has no
# free connections then, without any module), but it must not lose the engine.
{
    my $n = LLM::Nginx->new(master => 'off');
    $n->start->wait_ready;
    my $engine = $n->engine;
    kill 'HUP', $n->master;
    ok($n->wait_for(sub { $n->log =~ /reconfiguring.*using the/s }),
        'master_process off reloads');
    sleep 0.2;
    is($n->engine, $engine, 'the engine stays');
    $n->stop('TERM')->check_clean;
}

done_testing();
