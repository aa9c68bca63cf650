# status_workers.t - llm_status over several workers and engines, and across
# reloads, restarts and kill -9: counters go on, moments' values do not stay.
use strict;
use warnings;

use FindBin;
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

my $n = LLM::Nginx->new(workers => 3, engines => { chat => '', code => '' },
    server => 'location = /llm { llm_status prometheus; }
        location = /deep { llm_health deep; }
        location /code/ { llm_pass code; }');
$n->start->wait_ready;

# The value of a series, 0 when it is not there.
sub value {
    my ($series) = @_;
    my $r = $n->get('/llm') // return -1;
    return $r->{body} =~ /^\Qnginx_llm_$series\E (\S+)$/m ? $1 : 0;
}

sub becomes {
    my ($series, $want, $name) = @_;
    my $last;
    my $ok = $n->wait_for(sub { ($last = value($series)) == $want });
    return ok($ok, $name) || diag("nginx_llm_$series is $last, not $want");
}

my $stop = 'requests_total{engine="chat",model="mock",status="200",finish_reason="stop"}';
my $abort = 'requests_total{engine="chat",model="mock",status="200",finish_reason="client_abort"}';

# Whoever answers shows what all have done.
is(value('workers'), 3, 'three workers');
$n->chat(tokens => 4) for 1 .. 30;
$n->get('/code/v1/chat/completions', body => LLM::Nginx::body(stream => 'false', tokens => 2));
becomes($stop, 30, '30 answers of all workers');
becomes('completion_tokens_total{engine="chat",model="mock"}', 120, 'and their tokens');
becomes('completion_tokens_total{engine="code",model="mock"}', 2, 'those of the other engine apart');
is(value('session_connects_total{engine="chat"}'), 3, 'a session of each worker');

# Moments' values.
my @s = map { $n->stream(tokens => 100000, delay_ms => 20) } 1 .. 6;
$_->read_until(qr/tok2 /) for @s;
becomes('requests_in_flight{engine="chat"}', 6, 'six streams in flight');
is(value('requests_in_flight{engine="code"}'), 0, 'none at the other engine');
becomes('engine_running{engine="chat"}', 6, 'the engine says so, too');
$_->close for @s[0 .. 2];
becomes($abort, 3, 'three clients have left');
becomes('requests_in_flight{engine="chat"}', 3, 'three are left');

# A reload with streams in flight: old and new workers are both there.
my @old = $n->workers;
$n->reload;
ok($n->wait_for(sub { my %old = map { $_ => 1 } @old; 3 == grep { !$old{$_} } $n->workers }),
    'new workers');
becomes('requests_in_flight{engine="chat"}', 3, 'the streams of old workers still count');
$n->served('the new workers serve');
becomes($stop, 31, 'the counter has gone on');
my $with_old = value('workers');
ok($with_old > 3, "workers that leave are shown ($with_old)");
$_->close for @s[3 .. 5];
becomes($abort, 6, 'what old workers count at their end is not lost');
becomes('workers', 3, 'then they are gone');
becomes('requests_in_flight{engine="chat"}', 0, 'and nothing is in flight');

# kill -9 of every worker: what they had in flight does not stay.
@s = map { $n->stream(tokens => 100000, delay_ms => 20) } 1 .. 6;
$_->read_until(qr/tok2 /) for @s;
becomes('requests_in_flight{engine="chat"}', 6, 'six streams again');
kill 'KILL', $n->workers;
$_->read_until(undef) for @s;
$n->served('other workers serve');
becomes('requests_in_flight{engine="chat"}', 0, 'the dead have nothing in flight');
becomes('workers', 3, 'and are not shown');
is(value($stop), 32, 'the counters are still there');

# The engine dies and comes back.
my $connects = value('session_connects_total{engine="chat"}');
my $stream = $n->stream(tokens => 100000, delay_ms => 20);
$stream->read_until(qr/tok2 /);
kill 'KILL', $n->engine('chat');
$stream->finish;
becomes('request_errors_total{engine="chat",reason="engine_lost"}', 1, 'a lost stream');
becomes('session_losses_total{engine="chat"}', 3, 'each worker has lost its session');
is(value('engine_up{engine="code"}'), 1, 'the other engine is up');
ok($n->wait_for(sub { value('engine_up{engine="chat"}') == 1 }, 15), 'the engine is up again');
becomes('session_connects_total{engine="chat"}', $connects + 3, 'three new sessions');
$n->served('it serves');
becomes($stop, 33, 'the counter has gone on');

# A reload that removes an engine and brings it back: its counters go on.
$n->write_conf(engines => { chat => '' }, server => 'location = /llm { llm_status prometheus; }');
$n->reload;
ok($n->wait_for(sub { my $r = $n->get('/llm'); $r && $r->{body} !~ /engine="code"/ }),
    'an engine that is removed is not shown');
$n->write_conf(engines => { chat => '', code => '' });
$n->reload;
becomes('completion_tokens_total{engine="code",model="mock"}', 2, 'back again, with its count');

$n->stop->check_clean(except => qr/exited on signal 9/);

# One process.
{
    my $m = LLM::Nginx->new(master => 'off', daemon => 'off',
        server => 'location = /llm { llm_status prometheus; }');
    $m->start->wait_ready;
    is($m->chat->{status}, 200, 'master_process off');
    my $s = $m->stream(tokens => 100000, delay_ms => 20);
    $s->read_until(qr/tok2 /);
    like($m->get('/llm')->{body}, qr/nginx_llm_workers 1\n.*in_flight\{worker="0"\} 1\n/s,
        'shows itself');
    $s->close;
    ok($m->wait_for(sub { $m->get('/llm')->{body} =~ /client_abort"\} 1\n/ }), 'and counts');
    $m->stop->check_clean;
}

done_testing();
