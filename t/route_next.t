# route_next.t - llm_next_engine: what happens to a request whose engine is
# gone, is lost, hangs or refuses, before and after the first byte.
use Test::Nginx::Socket;
use FindBin;

require "$FindBin::Bin/lib/LLM/Mock.pm";

LLM::Mock::setup_several(a => [], b => [], c => [], gone => undef,
    loading => ['--start-delay', 3600000]);
no_long_string();
no_root_location();
add_block_preprocessor(sub {
    my ($block) = @_;
    my $http = $block->http_config // '';
    $block->set_value('http_config', "$http
        llm_model first a fallback=second,third;
        llm_model second b model=s7;
        llm_model third c;
        log_format m '\$status \"\$llm_engine\" \"\$llm_model\" \$llm_finish_reason';
        access_log logs/access.log m;
        add_header X-Engine \$llm_engine always;");
    $block->set_value('more_headers', 'Content-Type: application/json');
});

plan tests => 85;
run_tests();

__DATA__

=== TEST 1: an engine that is not there is passed over
--- http_config
    llm_model one gone fallback=second;
--- config
    location / { llm_pass one; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":1}}
--- response_headers
X-Engine: b
--- response_body_like: "model":"s7"
--- error_log
for model "one" goes to "second"
--- no_error_log
[error]
[alert]



=== TEST 2: a crash before the answer: the next engine answers, nobody notices
--- config
    location / { llm_pass first; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":2,"crash":"before","at":"a"}}
--- response_headers
X-Engine: a, b
--- response_body_like: "model":"s7".*"text":"tok0 tok1 "
--- error_log
engine "a" was lost, request
--- access_log
200 "a, b" "s7" stop



=== TEST 3: a crash behind the head, which no client has seen
--- config
    location / { llm_pass first; }
--- request
POST /v1/completions
{"prompt":"x","stream":true,"mock":{"tokens":2,"crash":"head","at":"a"}}
--- response_headers
X-Engine: a, b
--- response_body_like: "model":"s7".*tok0.*tok1.*data: \[DONE\]



=== TEST 4: a crash in a stream is an error in the stream, not a second answer
--- config
    location / { llm_pass first; }
--- request
POST /v1/chat/completions
{"messages":[],"stream":true,"mock":{"tokens":4,"delay_ms":20,"crash":"mid","at":"a"}}
--- response_headers
X-Engine: a
--- response_body_like: tok0.*tok1.*"code":"engine_lost"\}\}\n\n$
--- response_body_unlike: DONE
--- access_log
200 "a" "-" engine_lost



=== TEST 5: busy
--- config
    location / { llm_pass first; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":2,"refuse":true,"at":"a"}}
--- response_headers
X-Engine: a, b
! Retry-After
--- response_body_like: ^\{"id".*"model":"s7".*"text":"tok0 tok1 "
--- error_log
engine "a" is busy, request



=== TEST 6: all are busy: the last one's own words, and nobody is asked twice
--- http_config
    llm_model loop a b fallback=second,third,first;
--- config
    location / { llm_pass loop; llm_balance round_robin; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"refuse":true}}
--- error_code: 503
--- response_headers_like
X-Engine: (?:a, b|b, a), c
--- response_body_like: ^\{"error":\{"message":"refused".*"code":"overloaded"\}\}$



=== TEST 7: llm_next_engine_tries
--- config
    location / { llm_pass first; llm_next_engine_tries 2; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"refuse":true}}
--- error_code: 503
--- response_headers
X-Engine: a, b



=== TEST 8: an engine that does not answer
--- config
    location / { llm_pass first; llm_read_timeout 1s; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":1,"hang":true,"at":"a"}}
--- response_headers
X-Engine: a, b
--- error_log
engine "a" has not answered in time, request



=== TEST 9: nobody answers
--- config
    location / { llm_pass first; llm_read_timeout 100ms; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":1,"hang":true}}
--- error_code: 504
--- response_headers
X-Engine: a, b, c
--- response_body_like: "code":"timeout"



=== TEST 10: llm_next_engine_timeout
--- config
    location / { llm_pass first; llm_read_timeout 200ms; llm_next_engine_timeout 150ms; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":1,"hang":true,"at":"a"}}
--- error_code: 504
--- response_headers
X-Engine: a



=== TEST 11: off
--- config
    location / { llm_pass first; llm_next_engine off; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":1,"refuse":true,"at":"a"}}
--- error_code: 503
--- response_headers
X-Engine: a
Retry-After: 1



=== TEST 12: off does not leave the model for a fallback either
--- http_config
    llm_model one gone fallback=second;
--- config
    location / { llm_pass one; llm_next_engine off; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":1}}
--- error_code: 503
--- response_body_like: "code":"engine_unavailable"



=== TEST 13: only what is named: error, not busy
--- config
    location / { llm_pass first; llm_next_engine error; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":1,"refuse":true,"at":"a"}}
--- error_code: 503
--- response_headers
X-Engine: a



=== TEST 14: an engine that loads is passed over
--- http_config
    llm_model one loading fallback=second;
    llm_model two loading b;
--- config
    location / { llm_pass one; }
    location /two/ { llm_pass two; }
--- pipelined_requests eval
[map { "POST $_/v1/completions\n{\"prompt\":\"x\",\"mock\":{\"tokens\":1}}" } '', '/two', '', '/two', '/two']
# the first may come before this worker has heard that the engine loads
--- response_headers_like eval
['X-Engine: (?:loading, )?b', ('X-Engine: b') x 4]



=== TEST 15: and says itself how long, if nobody else can serve
--- http_config
    llm_model one loading;
--- config
    location / { llm_pass one; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":1}}
--- error_code: 503
--- response_headers
X-Engine: loading
--- response_body_like: "code":"loading"



=== TEST 16: 4xx answers stay, and so does 500
--- config
    location / { llm_pass first; }
--- pipelined_requests eval
[map { "POST /v1/completions\n{\"prompt\":\"x\",\"mock\":{\"status\":$_,\"at\":\"a\"}}" } 400, 404, 429, 500]
--- error_code eval
[400, 404, 429, 500]
--- response_headers eval
[("X-Engine: a") x 4]



=== TEST 17: a body in a temporary file goes to the second engine as a whole
--- config
    client_body_in_file_only clean;
    location / { llm_pass first; }
--- request eval
"POST /v1/completions\n{\"mock\":{\"echo\":true,\"close\":true,\"at\":\"a\"},\"prompt\":\"" . 'y' x 600000 . '"}'
--- response_headers
X-Engine: a, b
--- response_body_like: "body_bytes":600056,.*"at":"a"\},"prompt":"y{60000}



=== TEST 18: a body in many chunks, refused by the first
--- config
    client_body_buffer_size 1k;
    location / { llm_pass first; }
--- request eval
"POST /v1/completions\n{\"mock\":{\"tokens\":3,\"refuse\":true,\"at\":\"a\"},\"prompt\":\"" . 'y' x 3000000 . '"}'
--- response_headers
X-Engine: a, b
--- response_body_like: tok0 tok1 tok2



=== TEST 19: an answer without a head: an engine that goes
--- config
    location / { llm_pass first; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":1,"close":true,"at":"a"}}
--- response_headers
X-Engine: a, b



=== TEST 20: a protocol violation costs its session, not the request
--- config
    location / { llm_pass first; }
--- request
POST /v1/completions
{"prompt":"x","stream":true,"mock":{"tokens":2,"corrupt":"no_head","at":"a"}}
--- response_headers
X-Engine: a, b
--- error_log
broke the protocol



=== TEST 21: one llm_pass to an engine has nowhere to go
--- config
    location / { llm_pass a; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":1,"crash":"before","at":"a"}}
--- error_code: 503
--- response_headers
X-Engine: a
--- response_body_like: "code":"engine_lost"



=== TEST 22: an unknown reason
--- config
    location / { llm_pass a; llm_next_engine http_500; }
--- must_die
--- error_log
invalid value "http_500"



=== TEST 23: a request that moves is counted once by a token limit
--- http_config
    llm_limit_zone $remote_addr zone=tokens:1m rate=60t/h;
--- config
    location / { llm_pass first; llm_limit zone=tokens burst=1000; }
--- request
POST /v1/completions
{"prompt":"x","mock":{"tokens":7,"crash":"before","at":"a"}}
--- response_headers
X-Engine: a, b
X-RateLimit-Limit-Tokens: 1000
X-RateLimit-Remaining-Tokens: 990
--- response_body_like: tok0.*tok6
