# route_router.t - conf/router.conf with real engines: names, balance, and the
# fallback when every engine of a model is killed.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

my $n = LLM::Nginx->new(daemon => 'off', engines => { 'smart-1' => '', 'smart-2' => '', fast => '' });
$n->use_conf('router.conf', ENGINE => $ENV{TEST_NGINX_ENGINE});
$n->start;
ok($n->wait_for(sub {
    my $r = $n->get('/health/ready');
    $r && $r->{status} == 200;
}, 30), 'three engines are ready') or diag($n->log_tail);

sub ask {
    my ($model, %o) = @_;
    my $stream = $o{stream} ? 'true' : 'false';
    my $tokens = $o{tokens} || 2;
    return qq({"model":"$model","stream":$stream,"max_tokens":$tokens,"ignore_eos":true,)
        . q("messages":[{"role":"user","content":"Hello"}]});
}

sub engine_of { return $_[0] =~ /^X-Engine: ([^\r\n]*)/m ? $1 : 'none' }

subtest 'names' => sub {
    my $r = $n->get('/v1/models');
    is(join(' ', $r->{body} =~ /"id":"([^"]*)"/g),
        'smart-model gpt-4o fast-model gpt-4o-mini gpt-3.5-turbo', 'GET /v1/models');
    for (['smart-model', 'org/smart-7b', qr/^smart-[12]$/], ['gpt-4o', 'org/smart-7b', qr/^smart-[12]$/],
        ['fast-model', 'org/fast-1b', qr/^fast$/], ['gpt-3.5-turbo', 'org/fast-1b', qr/^fast$/])
    {
        my ($name, $served, $engine) = @$_;
        my $a = $n->get('/v1/chat/completions', body => ask($name));
        is($a->{status}, 200, "$name is served") or diag($a->{body});
        like($a->{body}, qr/"model":"\Q$served\E"/, "by $served");
        like(engine_of($a->{head}), $engine, 'of the right engine');
    }
    my $r404 = $n->get('/v1/chat/completions', body => ask('org/smart-7b'));
    is($r404->{status}, 404, 'what an engine calls it is no name here');
    like($r404->{body}, qr/"param":"model","code":"model_not_found"/, 'as OpenAI says it');
    for my $body ('{"content":"hi","prompt":"a b","model":"gpt-4o"}', '{"prompt":"a b"}') {
        is($n->get('/tokenize', body => $body)->{status}, 200, "tokenize $body");
    }
};

subtest 'eight streams: both engines, and nobody sees it when one is killed' => sub {
    my @streams = map { LLM::Nginx::Stream->new($n, LLM::Nginx::request_text('/v1/chat/completions',
        body => ask('smart-model', stream => 1, tokens => 40))) } 1 .. 8;
    kill 'KILL', $n->engine('smart-1');
    my (%share, $lost);
    for my $s (@streams) {
        my $r = $s->finish(30);
        is($r->{status}, 200, 'a stream begins') or diag($r->{body});
        like($r->{body}, qr/^data: \{"id":/, 'with a token');
        $lost++ if $r->{body} !~ /data: \[DONE\]/;
        $share{engine_of($r->{head})}++;
    }
    note(join(', ', map { "$_: $share{$_}" } sort keys %share), ', ended in the middle: ', $lost // 0);
    cmp_ok(scalar(grep { /smart-2$/ } keys %share), '>', 0, 'the other engine has served');
};

subtest 'no engine of smart-model is left: fast-model answers' => sub {
    for my $name ('smart-1', 'smart-2') {
        kill 'KILL', grep { defined } $n->supervisor($name), $n->standby($name), $n->engine($name);
    }
    for my $i (1 .. 4) {
        my $r = $n->get('/v1/chat/completions', body => ask('gpt-4o'));
        is($r->{status}, 200, "request $i is served") or diag($r->{body});
        like($r->{body}, qr/"model":"org\/fast-1b"/, 'by the fallback');
        like(engine_of($r->{head}), qr/\bfast$/, 'after whatever was tried');
    }
    like($n->log('access.log'), qr{"POST /v1/chat/completions HTTP/1.1" 200 org/fast-1b "[^"]*fast" \d+\+2 },
        'and the log says so');
};

$n->stop;
$n->check_log;
done_testing();
