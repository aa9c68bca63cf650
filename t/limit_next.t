# limit_next.t - a request that goes on to another engine is counted once.
use Test::Nginx::Socket;
use FindBin;

require "$FindBin::Bin/lib/LLM/Mock.pm";

LLM::Mock::setup_several(a => [], b => []);
no_long_string();
no_root_location();
add_block_preprocessor(sub {
    my ($block) = @_;
    $block->set_value('http_config', ($block->http_config // '') . '
        llm_model first a fallback=second;
        llm_model second b;
        llm_limit_zone $http_x_key zone=tok:1m rate=1t/h;
        log_format m \'$status $llm_limit_status $llm_reserved_tokens $llm_tokens_remaining\';
        access_log logs/access.log m;
        add_header X-Engine $llm_engine always;
        llm_limit zone=tok burst=100;');
    $block->set_value('more_headers', "Content-Type: application/json\nX-Key: k");
});

plan tests => 19;
run_tests();

__DATA__

=== TEST 1: lost before the first token: what the first engine held is free for the second
--- config
    location / { llm_pass first; }
--- pipelined_requests eval
[map { "POST /v1/completions\n" . $_ } ('{"prompt":"x","max_tokens":50,"mock":{"prompt_tokens":20,"tokens":10,"crash":"before","at":"a"}}',
    '{"prompt":"x","max_tokens":50,"mock":{"prompt_tokens":20,"tokens":10}}')]
--- error_code eval
[200, 200]
--- response_headers eval
["X-Engine: a, b\nx-ratelimit-remaining-tokens: 30", "x-ratelimit-remaining-tokens: 0"]
--- no_error_log
limiting tokens



=== TEST 2: an engine that refuses costs nothing
--- config
    location / { llm_pass first; }
--- request
POST /v1/completions
{"prompt":"x","max_tokens":70,"mock":{"prompt_tokens":30,"tokens":10,"refuse":true,"at":"a"}}
--- response_headers
X-Engine: a, b
x-ratelimit-remaining-tokens: 0
--- access_log
200 PASSED 100 0



=== TEST 3: a refusal by a limit is not tried elsewhere
--- config
    location / { llm_pass first; }
--- request
POST /v1/completions
{"prompt":"x","max_tokens":80,"mock":{"prompt_tokens":30,"tokens":10}}
--- error_code: 429
--- response_headers
X-Engine: a
x-ratelimit-remaining-tokens: 100
--- access_log
429 REJECTED 0 100



=== TEST 4: PROMPT does not keep a request that has two engines
--- config
    location / { llm_pass first; }
--- request
POST /v1/completions
{"prompt":"x","stream":true,"max_tokens":10,"mock":{"prompt_tokens":30,"tokens":3}}
--- response_headers
x-ratelimit-limit-tokens: 100
x-ratelimit-remaining-tokens: 60
--- response_body_like: tok2 .*\[DONE\]
