# native_limits.t - nginx's own limits per API key, and what is logged of it:
# limit_req, limit_conn, client_max_body_size, limit_rate, map, split_clients.
use Test::Nginx::Socket;
use FindBin;

require "$FindBin::Bin/lib/LLM/Mock.pm";

LLM::Mock::setup();
no_long_string();
no_root_location();

plan tests => 41;
run_tests();

__DATA__

=== TEST 1: limit_req per key: one key's bucket is not another's
--- http_config
    limit_req_zone $llm_key_id zone=keys1:1m rate=1r/m;
    limit_req_status 429;
--- config
    location / { limit_req zone=keys1 burst=1 nodelay; llm_pass mock; }
--- pipelined_requests eval
[("GET /v1/models") x 5]
--- more_headers eval
["api-key: a", "Authorization: Bearer a", "x-api-key: a", "api-key: b", "api-key: b"]
--- error_code eval
[200, 200, 429, 200, 200]
--- response_headers eval
["! Retry-After", "! Retry-After", "Retry-After: 1", "! Retry-After", "! Retry-After"]



=== TEST 2: a key that a map makes empty has no limit
--- http_config
    map $llm_key $limited { default $llm_key_id; sk-root ""; }
    limit_req_zone $limited zone=keys2:1m rate=1r/m;
--- config
    limit_req_status 429;
    location / { limit_req zone=keys2; llm_pass mock; }
--- pipelined_requests eval
[("GET /v1/models") x 4]
--- more_headers eval
["api-key: sk-root", "api-key: sk-root", "api-key: a", "api-key: a"]
--- error_code eval
[200, 200, 200, 429]



=== TEST 3: limit_conn per key counts a request until its answer has ended
--- http_config
    limit_conn_zone $llm_key_id zone=keys3:1m;
--- config
    limit_conn_status 429;
    location / { limit_conn keys3 1; llm_pass mock; }
    location /same/ { limit_conn keys3 1; proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/; }
    location /other/ { limit_conn keys3 1; proxy_set_header api-key other;
        proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/; }
--- pipelined_requests eval
["GET /same/v1/models", "GET /other/v1/models", "GET /v1/models"]
--- more_headers
api-key: a
--- error_code eval
[429, 200, 200]
--- response_body_like eval
[qr/"code":"rate_limit_exceeded"/, qr/"object":"list"/, qr/"object":"list"/]



=== TEST 4: client_max_body_size
--- config
    location / { client_max_body_size 100; llm_pass mock; }
    location /large/ { client_max_body_size 1k; llm_pass mock; }
--- pipelined_requests eval
[map { "POST $_/v1/completions\n" . '{"prompt":"' . ('x' x 200) . '","mock":{"tokens":1}}' } '/large', '']
--- more_headers
Content-Type: application/json
--- error_code eval
[200, 413]



=== TEST 5: a log in JSON, with the key's id
--- http_config
    map $llm_key $user { default ""; sk-1 'al "ice"'; }
    log_format usage escape=json '{"user":"$user","key":"$llm_key_id","status":$status,'
        '"model":"$llm_model","prompt_tokens":"$llm_prompt_tokens",'
        '"completion_tokens":"$llm_completion_tokens","finish":"$llm_finish_reason"}';
--- config
    access_log logs/access.log usage;
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"mock":{"tokens":3}}
--- more_headers
Content-Type: application/json
Authorization: Bearer sk-1
--- response_body_like: tok2
--- access_log eval
use Digest::SHA; '{"user":"al \"ice\"","key":"' . substr(Digest::SHA::sha256_hex('sk-1'), 0, 16)
. '","status":200,"model":"mock","prompt_tokens":"3","completion_tokens":"3","finish":"stop"}'



=== TEST 6: a map chooses the engine by the key
--- http_config
    map $llm_key $engine { default mock; sk-gone gone; }
--- config
    location / { llm_pass $engine; }
--- pipelined_requests eval
["GET /v1/models", "GET /v1/models"]
--- more_headers eval
["api-key: sk-1", "api-key: sk-gone"]
--- error_code eval
[200, 404]
--- response_body_like eval
[qr/"object":"list"/, qr/"code":"engine_not_found"/]



=== TEST 7: split_clients sends a share of the keys elsewhere
--- http_config
    split_clients $llm_key_id $engine { 0.01% nowhere; * mock; }
    split_clients $llm_key $none { 100% nowhere; * mock; }
--- config
    location / { llm_pass $engine; }
    location /all/ { llm_pass $none; }
--- pipelined_requests eval
["GET /v1/models", "GET /all/v1/models"]
--- more_headers
api-key: sk-1
--- error_code eval
[200, 404]



=== TEST 8: limit_rate slows a stream and loses nothing of it
--- config
    location / { limit_rate 20k; llm_pass mock; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":60,"bytes":400}}
--- more_headers
Content-Type: application/json
--- timeout: 4
--- response_body_like: (?s)tok0.*tok59.*\[DONE\]\n\n\z
--- no_error_log
[alert]
[error]



=== TEST 9: limit_req that delays: a dry run says what it would do
--- http_config
    limit_req_zone $llm_key zone=keys9:1m rate=1r/m;
    log_format req '[$limit_req_status]';
--- config
    access_log logs/access.log req;
    location / { limit_req zone=keys9; limit_req_dry_run on; llm_pass mock; }
--- pipelined_requests eval
["GET /v1/models", "GET /v1/models"]
--- more_headers
api-key: a
--- error_code eval
[200, 200]
--- access_log eval
["[PASSED]", "[REJECTED_DRY_RUN]"]
