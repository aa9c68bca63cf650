# process_real.t - the real engine, with the small model of models/demo: taken over
# from, rotated, hung, as the mock engine is in the other files.
use strict;
use warnings;

use FindBin;
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

my $model = "$ENV{TEST_NGINX_ROOT}/models/demo";
plan skip_all => "no model in $model (make run makes one)" if !-e "$model/config.json";

sub engine_lines {
    my ($n, $more) = @_;
    return { chat => "model $model; device cpu; threads 1; kv_cache_memory_bytes 8M; $more" };
}

sub ask {
    my ($n, %o) = @_;
    my $stream = $o{stream} ? 'true' : 'false';
    my $body = qq({"messages":[{"role":"user","content":"Hello"}],"max_tokens":$o{tokens},)
        . qq("stream":$stream,"ignore_eos":true,"temperature":0});
    return LLM::Nginx::Stream->new($n,
        LLM::Nginx::request_text('/v1/chat/completions', body => $body));
}

my $n = LLM::Nginx->new;
$n->{binary} = $ENV{TEST_NGINX_ENGINE};
$n->write_conf(engines => engine_lines($n, 'max_model_len 512; hang_timeout 2s;'));
$n->start->wait_ready(30);
my ($engine, $supervisor) = ($n->engine, $n->supervisor);
is(ask($n, tokens => 4)->finish->{status}, 200, 'the real engine answers');

# Other options: nobody notices, and the old one goes when its workers have.
my $s = ask($n, tokens => 400, stream => 1);
ok($s->read_until(qr/data: .*data: /s), 'a stream runs');
$n->write_conf(engines => engine_lines($n, 'max_model_len 500; hang_timeout 2s;'));
$n->reload;
my %status;
ok($n->wait_for(sub {
    my $r = ask($n, tokens => 1)->finish;
    $status{ $r ? $r->{status} : 'none' }++;
    return $n->log =~ /is ready and takes over/ && !LLM::Nginx::alive($supervisor);
}, 40), 'the new one takes over') or diag($n->log_tail);
is(join(',', sort keys %status), '200', 'nothing but 200 meanwhile');
like($s->finish(40)->{body}, qr/"finish_reason":"length".*\[DONE\]/s, 'the stream is whole');
ok(!LLM::Nginx::alive($engine), 'the old engine has ended');
like($n->log, qr/another engine takes over: serving \d+ workers until they leave/, 'in good order');

# Options that cannot work: the one that runs goes on.
$engine = $n->engine;
$n->write_conf(engines => engine_lines($n, 'max_model_len nonsense;'));
$n->reload;
ok($n->wait_for(sub { $n->log =~ /cannot start with its new options/ }), 'bad options are given up');
like($n->log, qr/nginx-llm-engine: .*max-model-len/, 'the log says which');
is(ask($n, tokens => 1)->finish->{status}, 200, 'the engine that runs serves');

# Stopped: killed and started again.
$n->write_conf(engines => engine_lines($n, 'max_model_len 500; hang_timeout 2s;'));
$n->reload;
# the supervisor that has given up may take a moment to leave
ok($n->wait_for(sub { ($n->engine // 0) == $engine }), 'the old options: the same engine');
kill 'STOP', $engine;
ok($n->wait_for(sub { $n->log =~ /engine $engine hangs: no sign of life/ }, 15), 'a stopped engine is killed');
$n->wait_ready(30);
ok($n->wait_for(sub { ask($n, tokens => 1)->finish->{status} == 200 }, 15), 'and another serves');
$n->stop->check_clean;

done_testing();
