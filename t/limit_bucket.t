# limit_bucket.t - llm_limit: what is reserved, refused, settled and said.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";
use LLM::Limits;

# At a token an hour nothing leaks while a test runs.
my $n = LLM::Nginx->new(workers => 1, http => LOG . q{
    llm_limit_zone $http_x_key zone=slow:1m rate=1t/h;
    llm_limit_zone $http_x_key zone=second:1m rate=1t/h;
    llm_limit_zone $http_x_key zone=fast:1m rate=2000t/m;
    }, location => 'access_log logs/limit.log limit; llm_limit zone=slow burst=1000;'
    . 'location /strict/ { llm_pass chat; llm_limit zone=slow burst=500; llm_limit_expect max; }'
    . 'location /few/ { llm_pass chat; llm_limit zone=slow burst=1000; llm_limit_expect 50; }'
    . 'location /prompt/ { llm_pass chat; llm_limit zone=slow burst=1000 type=prompt; }'
    . 'location /completion/ { llm_pass chat; llm_limit zone=slow burst=1000 type=completion; }'
    . 'location /two/ { llm_pass chat; llm_limit zone=slow burst=1000; llm_limit zone=second burst=300; }'
    . 'location /fast/ { llm_pass chat; llm_limit zone=fast; }'
    . 'location /dry/ { llm_pass chat; llm_limit zone=slow burst=1000; llm_limit_dry_run on; access_log logs/limit.log limit; }'
    . 'location /quiet/ { llm_pass chat; llm_limit zone=slow burst=1000; llm_limit_headers off; llm_limit_status 503; }'
    . 'location /level/ { llm_pass chat; llm_limit zone=slow burst=1000; llm_limit_log_level info; }');
$n->start->wait_ready;

# Reserve prompt + max_tokens, settle prompt + completion.
{
    my $r = ask($n, 'a', prompt_tokens => 100, tokens => 20, max_tokens => 300);
    is($r->{status}, 200, 'a request passes');
    is(header($r, 'x-ratelimit-limit-tokens'), 1000, 'limit: the burst');
    is(remaining($r), 600, 'remaining: 1000 - 100 - 300 are reserved');
    like(header($r, 'x-ratelimit-reset-tokens'), qr/^(?:400h0m0s|399h59m59s)$/, 'reset: 400 tokens at one an hour');
    is(left($n, 'a'), 880, 'settled: 1000 - 100 - 20');
    is(left($n, 'b'), 1000, 'another key has its own bucket');
}

# The refusal: everything a client needs.
{
    my $r = ask($n, 'a', prompt_tokens => 100, tokens => 20, max_tokens => 790);
    is($r->{status}, 429, 'more than there is');
    like($r->{body}, qr/^\{"error":\{"message":"Rate limit reached on tokens per hour: Limit 1000, Used 120, Requested 890\. Please try again in (?:10h0m0s|9h59m59s)\.","type":"tokens","param":null,"code":"rate_limit_exceeded"\}\}\n$/,
        'says why in OpenAI\'s shape');
    like(header($r, 'Retry-After'), qr/^(?:36000|35999)$/, 'Retry-After: 10 tokens at one an hour');
    is(header($r, 'X-Should-Retry'), undef, 'retrying is fine');
    is(remaining($r), 880, 'a refusal shows what is left');
    is(left($n, 'a'), 880, 'and costs nothing');
}

# What can never pass.
{
    my $r = ask($n, 'a', prompt_tokens => 1001, tokens => 1, max_tokens => 1);
    is($r->{status}, 429, 'larger than the bucket');
    like(message($r), qr/^Request too large on tokens: Limit 1000, Requested 1002\. The input or output tokens must be reduced/, 'says so');
    is(header($r, 'Retry-After'), undef, 'no Retry-After');
    is(header($r, 'X-Should-Retry'), 'false', 'do not retry');
    $r = ask($n, 'a', prompt_tokens => 10, tokens => 5, max_tokens => 3000);
    is($r->{status}, 429, 'so is a max_tokens of up to llm_limit_expect');
    like(message($r), qr/^Request too large/, 'too large');
}

# A max_tokens above llm_limit_expect is taken for none.
{
    my $r = ask($n, 'c', prompt_tokens => 10, tokens => 5, max_tokens => 100_000);
    is($r->{status}, 200, 'a client without a max_tokens is not locked out');
    is(remaining($r), 0, 'it reserves the bucket');
    is(left($n, 'c'), 985, 'and gets the rest back');
    $r = ask($n, 'c', uri => '/few/v1/chat/completions', prompt_tokens => 10, tokens => 200, max_tokens => 400);
    is(remaining($r), 925, 'llm_limit_expect 50 reserves 10 + 50');
    is(left($n, 'c'), 775, 'a longer answer is charged at its end');
    $r = ask($n, 'd', uri => '/strict/v1/chat/completions', prompt_tokens => 10, tokens => 5, max_tokens => 491);
    is($r->{status}, 429, 'llm_limit_expect max: all or nothing');
    like(message($r), qr/^Request too large.* Limit 500, Requested 501/, 'burst=500 is the limit');
    $r = ask($n, 'd', uri => '/strict/v1/chat/completions', prompt_tokens => 10, tokens => 5, max_tokens => 490);
    is($r->{status}, 200, 'exactly the burst passes');
}

# type=
{
    my $r = ask($n, 'e', uri => '/prompt/v1/chat/completions', prompt_tokens => 10, tokens => 5, max_tokens => 90);
    is(remaining($r), 990, 'type=prompt reserves the prompt');
    is(left($n, 'e'), 990, 'and charges it');
    $r = ask($n, 'e', uri => '/completion/v1/chat/completions', prompt_tokens => 10, tokens => 5, max_tokens => 90);
    is(remaining($r), 900, 'type=completion reserves max_tokens');
    is(left($n, 'e'), 985, 'and charges the completion');
}

# Several zones: all or nothing.
{
    my $uri = '/two/v1/chat/completions';
    my $r = ask($n, 'f', uri => $uri, prompt_tokens => 10, tokens => 5, max_tokens => 190);
    is(remaining($r), 100, 'the header shows the tightest');
    is(header($r, 'x-ratelimit-limit-tokens'), 300, 'and its limit');
    is(left($n, 'f'), 985, 'the other was charged too');
    $r = ask($n, 'f', uri => $uri, prompt_tokens => 100, tokens => 5, max_tokens => 190);
    is($r->{status}, 429, 'one refuses');
    is(left($n, 'f'), 985, 'the other has given nothing');
}

# An exhausted key is refused without the engine.
{
    ask($n, 'g', prompt_tokens => 900, tokens => 100, max_tokens => 100);
    my $r = ask($n, 'g', prompt_tokens => 1, tokens => 1, crash => 'before', max_tokens => 1);
    is($r->{status}, 429, 'nothing left');
    like(message($r), qr/Used 1000, Requested 1\./, 'early: one token is asked for');
}

# Leaks at its rate.
{
    my %o = (uri => '/fast/v1/chat/completions', tokens => 0, max_tokens => 1);
    my $r = ask($n, 'h', %o, prompt_tokens => 1999);
    is(header($r, 'x-ratelimit-limit-tokens'), 2000, 'without burst: the rate');
    my $began = time;
    $r = ask($n, 'h', %o, prompt_tokens => 99);
    is($r->{status}, 429, '2000 tokens a minute, all used');
    like(message($r), qr/tokens per minute: .* in [12]\.\d+s\.$/, 'wait: 100 tokens take three seconds');
    ok($n->wait_for(sub { ask($n, 'h', %o, prompt_tokens => 99)->{status} == 200 }, 10), 'then it passes');
    cmp_ok(time - $began, '>=', 2, 'not earlier');
}

# Not limited: an empty key, other routes.
{
    my $r = ask($n, '', prompt_tokens => 5000, tokens => 1);
    is($r->{status}, 200, 'an empty key is not limited');
    is(remaining($r), undef, 'no headers');
    $r = $n->get('/v1/models', headers => { 'X-Key' => 'g' });
    is($r->{status}, 200, 'nor is a route that generates nothing');
    $r = ask($n, 'K' x 3000, prompt_tokens => 100, tokens => 0, max_tokens => 1);
    is(remaining($r), 899, 'a key of 3000 bytes is');
    is(left($n, 'K' x 3000), 900, 'and remembered');
    is(left($n, 'K' x 3001), 1000, 'by all of its bytes');
}

# Errors of the engine cost nothing.
{
    is(ask($n, 'i', status => 500)->{status}, 500, 'the engine fails');
    is(ask($n, 'i', refuse => 'true')->{status}, 503, 'or is full');
    is(left($n, 'i'), 1000, 'free');
}

# Options.
{
    my $r = ask($n, 'g', uri => '/quiet/v1/chat/completions');
    is($r->{status}, 503, 'llm_limit_status 503');
    is(code($r), 'rate_limit_exceeded', 'is still a limit');
    is(remaining($r), undef, 'llm_limit_headers off');
    $r = ask($n, 'g', uri => '/dry/v1/chat/completions', prompt_tokens => 50, tokens => 5);
    is($r->{status}, 200, 'llm_limit_dry_run passes');
    is(left($n, 'g'), 0, 'and charges nothing');
    like($n->log, qr/\[error\].*limiting tokens, dry run, limit: 1000, used: 1000, requested: 1, by zone "slow"/, 'but logs');
    ask($n, 'g', uri => '/level/v1/chat/completions');
    like($n->log, qr/\[info\].*limiting tokens, limit: 1000/, 'llm_limit_log_level info');
    my @log = grep { /^[gc] / } @{ logged($n) };
    like($log[0], qr/^c 200 PASSED 1000 0 stop$/, 'variables: passed') or diag(join "\n", @log);
    ok((grep { /^g 429 REJECTED 0 0 -$/ } @log) > 0, 'rejected');
    ok((grep { /^g 200 REJECTED_DRY_RUN 0 0 stop$/ } @log) == 1, 'dry run');
}

$n->stop->check_clean;
done_testing();
