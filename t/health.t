# health.t - llm_health live, ready, deep: states, reasons, one question for all.
use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(time);

require "$FindBin::Bin/lib/LLM/Nginx.pm";

my $server = 'llm_health_timeout 1s;
    location = /deep { llm_health deep; }
    location = /deep/chat { llm_health deep chat; }
    location = /deep/fresh { llm_health deep chat; llm_health_interval 0; }
    location = /ready/chat { llm_health ready chat; }
    location = /llm { llm_status prometheus; }';

my $n = LLM::Nginx->new(workers => 1, server => $server, main => 'env X;',
    engines => { chat => 'start_delay 500;', late => 'start_delay 5000;' });
$n->start;

sub get_json {
    my ($uri) = @_;
    my $r = $n->get($uri) // return { status => 0, body => '' };
    $r->{body} =~ s/\n\z//;
    return $r;
}

# Loading.
my $r = $n->wait_for(sub { my $x = get_json('/ready'); $x->{body} =~ /"late":"loading"/ ? $x : undef });
is($r->{status}, 503, 'an engine that loads is not ready');
like($r->{body}, qr/^\{"status":"not_ready","engines":\{.*"late":"loading"\}\}$/, 'says which, and why');
like($r->{head}, qr/^Retry-After: 1\r?$/m, 'Retry-After');
is(get_json('/live')->{status}, 200, 'live all the same');
ok($n->wait_for(sub { get_json('/ready/chat')->{status} == 200 }), 'one engine is ready');
is(get_json('/ready')->{status}, 503, 'not all are');
$r = get_json('/deep');
is($r->{status}, 503, 'deep waits for all of them');
is($r->{body}, '{"status":"not_ready","engines":{"chat":"ready","late":"loading"}}',
    'asks the one, and does not ask the other');
ok($n->wait_for(sub { get_json('/ready')->{status} == 200 }), 'all are ready');

# Deep: a token, cached for a second, not counted as a client's request.
my $asked = sub { $n->get('/llm')->{body} =~ /engine_requests_total\{engine="chat"\} (\d+)/ ? $1 : -1 };
ok($n->wait_for(sub { get_json('/deep')->{body} eq
    '{"status":"ready","engines":{"chat":"ready","late":"ready"}}' }), 'deep: ready');
my $before = $asked->();
my $began = time;
get_json('/deep') for 1 .. 40;
my $took = time - $began;
my $more;
$n->wait_for(sub { ($more = $asked->() - $before) > 0 }, 1);
ok($more <= $took + 2, "40 probes in $took s were $more questions");
unlike($n->get('/llm')->{body}, qr/nginx_llm_requests_total\{engine="chat",model="[^"]/,
    'not counted as requests of clients');
is(get_json('/deep/fresh')->{status}, 200, 'llm_health_interval 0: a fresh answer');
$r = $n->get('/deep', method => 'HEAD');
is($r->{status}, 200, 'HEAD');
is($n->get('/deep', method => 'POST', body => '{}')->{status}, 405, 'not POST');

# The step thread hangs: the probe's time is over, for all who wait, and once.
my $hang = $n->stream(hang => 'process', hang_ms => 4000);
select undef, undef, undef, 0.2;
my @wait = map { LLM::Nginx::Stream->new($n, LLM::Nginx::request_text('/deep/fresh')) } 1 .. 8;
my $gone = LLM::Nginx::Stream->new($n, LLM::Nginx::request_text('/deep/fresh'));
select undef, undef, undef, 0.2;
$gone->close;
$began = time;
my @r = map { $_->finish } @wait;
is(join(' ', map { $_->{status} } @r), join(' ', (503) x 8), 'eight wait, eight are told');
like($r[0]{body}, qr/"chat":"timeout"/, 'why');
$took = time - $began;
ok($took < 2.5, "after llm_health_timeout ($took s)");
is(() = $n->log =~ /has not answered a health request/g, 1, 'it was one question');
$r = get_json('/deep/fresh');
like($r->{body}, qr/"chat":"(?:timeout|hanging)"/, 'told at once as long as it has not ended it');
$hang->close;
ok($n->wait_for(sub { get_json('/deep/fresh')->{status} == 200 }, 10), 'then it is asked again');

# The engine dies while it is asked.
$hang = $n->stream(hang => 'process', hang_ms => 60000);
select undef, undef, undef, 0.2;
my $probe = LLM::Nginx::Stream->new($n, LLM::Nginx::request_text('/deep/fresh'));
select undef, undef, undef, 0.2;
kill 'KILL', $n->engine('chat');
$r = $probe->finish;
is($r->{status}, 503, 'killed while it is asked');
like($r->{body}, qr/"chat":"engine_lost"/, 'why');
like(get_json('/ready/chat')->{body}, qr/"chat":"(?:not_running|failed|connecting|no_answer|loading)"/, 'not ready');
ok($n->wait_for(sub { get_json('/deep')->{status} == 200 }, 15), 'it comes back');

# A reload while a probe waits: the old worker answers it before it leaves.
$hang = $n->stream(hang => 'process', hang_ms => 600);
select undef, undef, undef, 0.1;
$probe = LLM::Nginx::Stream->new($n, LLM::Nginx::request_text('/deep/fresh'));
select undef, undef, undef, 0.1;
$n->reload;
$r = $probe->finish;
ok($r && $r->{status} =~ /^(?:200|503)$/ && $r->{body} =~ /"chat":/, 'a probe survives a reload');
ok($n->wait_for(sub { get_json('/deep')->{status} == 200 }, 15), 'ready after it');

# Draining.
{
    my $s = $n->stream(tokens => 100000, delay_ms => 20);
    $s->read_until(qr/tok2 /);
    kill 'TERM', $n->engine('chat');
    my $x = $n->wait_for(sub { my $y = get_json('/ready/chat'); $y->{status} == 503 ? $y : undef });
    like($x->{body}, qr/"chat":"(?:draining|not_running|failed)"/, 'an engine that drains is not ready');
    $s->close;
}

$n->stop->check_clean;

# What cannot be an answer of an engine is none.
my ($rc, $said) = LLM::Nginx->new(server => 'location = /x { llm_health dead; }')->nginx('-t');
like($said, qr/\[emerg\].*"llm_health" takes "live", "ready" or "deep", not "dead" in \S+:\d+/, 'nginx -t');

($rc, $said) = LLM::Nginx->new(server => 'location = /x { llm_health live chat; }')->nginx('-t');
like($said, qr/\[emerg\].*"llm_health" directive takes no engine after "live".* in \S+:\d+/,
    'live looks at no engine, so it takes none');
($rc, $said) = LLM::Nginx->new(server => 'location = /x { llm_health ready no; }')->nginx('-t');
like($said, qr/\[emerg\].*no "llm_engine no" is defined, but "llm_health" names it in \S+nginx.conf:\d+/,
    'an engine that there is not, with its line');

done_testing();
