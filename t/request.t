# request.t - what the module takes, what it refuses, and how.
use Test::Nginx::Socket;
use FindBin;

require "$FindBin::Bin/lib/LLM/Mock.pm";

LLM::Mock::setup();
no_long_string();
no_root_location();

plan tests => 87;
run_tests();

__DATA__

=== TEST 1: a plain chat request
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"messages":[],"mock":{"tokens":2}}
--- more_headers
Content-Type: application/json
--- response_headers
Content-Type: application/json
--- response_body_like: "content":"tok0 tok1 "
--- no_error_log
[alert]
[error]



=== TEST 2: a variable names the engine
--- config
    location / { set $which mock; llm_pass $which; }
--- request
GET /v1/models
--- response_body_like: "id":"mock"



=== TEST 3: a variable names no engine
--- config
    location / { llm_pass $arg_e; }
--- request
GET /v1/models?e=none
--- error_code: 404
--- response_body_like: ^\{"error":\{"message":.*"code":"engine_not_found"\}\}$



=== TEST 4: routes are found by the tail of the URI
--- config
    location /llm/ { llm_pass mock; }
--- request
GET /llm//v1/../v1/models
--- response_body_like: "object":"list"



=== TEST 5: llm_endpoint names the route
--- config
    location = /ask { llm_pass mock; llm_endpoint chat_completions; }
--- request
POST /ask
{"messages":[],"mock":{"tokens":1}}
--- more_headers
Content-Type: application/json
--- response_body_like: "content":"tok0 "



=== TEST 6: an unknown route
--- config
    location / { llm_pass mock; }
--- request
GET /v1/nothing
--- error_code: 404
--- response_headers
Content-Type: application/json
--- response_body_like: "type":"invalid_request_error","param":null,"code":"not_found"



=== TEST 7: GET on a POST route
--- config
    location / { llm_pass mock; }
--- request
GET /v1/chat/completions
--- error_code: 405
--- response_headers
Content-Type: application/json
Allow: POST
--- response_body_like: "code":"method_not_allowed"



=== TEST 8: DELETE on a GET route
--- config
    location / { llm_pass mock; }
--- request
DELETE /v1/models
--- error_code: 405
--- response_headers
Allow: GET, HEAD



=== TEST 9: no content type
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{}
--- error_code: 415
--- response_body_like: "code":"unsupported_media_type"



=== TEST 10: a wrong content type
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{}
--- more_headers
Content-Type: text/plain
--- error_code: 415



=== TEST 11: a wrong charset
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{}
--- more_headers
Content-Type: application/json; charset=utf-16
--- error_code: 415



=== TEST 12: the right charset, and what curl -d sends
--- config
    location / { llm_pass mock; }
--- pipelined_requests eval
["POST /v1/completions\n{\"prompt\":\"a\",\"mock\":{\"tokens\":1}}",
 "POST /v1/completions\n{\"prompt\":\"b\",\"mock\":{\"tokens\":1}}"]
--- more_headers eval
["Content-Type: Application/JSON; charset=\"UTF-8\"",
 "Content-Type: application/x-www-form-urlencoded"]
--- response_body_like eval
[qr/tok0/, qr/tok0/]



=== TEST 13: a compressed body
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{}
--- more_headers
Content-Type: application/json
Content-Encoding: gzip
--- error_code: 415
--- response_body_like: "code":"unsupported_encoding"



=== TEST 14: too large for nginx
--- config
    location / { llm_pass mock; client_max_body_size 100; }
--- request eval
"POST /v1/chat/completions\n" . ("x" x 200)
--- more_headers
Content-Type: application/json
--- error_code: 413
--- response_headers
Content-Type: application/json
--- response_body_like: ^\{"error":\{"message":"The request body is too large\.","type":"invalid_request_error","param":null,"code":"request_too_large"\}\}$



=== TEST 15: a large body from a temporary file
--- config
    location / { llm_pass mock; client_body_buffer_size 1k; }
--- request eval
"POST /v1/chat/completions\n" . '{"messages":[],"pad":"' . ("x" x 300000) . '","mock":{"echo":true}}'
--- more_headers
Content-Type: application/json
--- response_body_like: "body_bytes":300[0-9]{3}



=== TEST 16: a chunked body
--- config
    location / { llm_pass mock; }
--- raw_request eval
"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
. "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
. "5\r\n{\"moc\r\n1\r\nk\r\n10\r\n\":{\"echo\":true}}\r\n0\r\n\r\n"
--- response_body_like: "body_bytes":22



=== TEST 17: HEAD
--- config
    location / { llm_pass mock; }
--- request
HEAD /v1/models
--- response_headers
Content-Type: application/json
--- response_body eval
""



=== TEST 18: the client's request id goes through
--- config
    location / { llm_pass mock; }
--- request
GET /v1/models
--- more_headers
X-Request-Id: abc-1.2_Z
--- response_headers
X-Request-Id: abc-1.2_Z



=== TEST 19: an id that could harm a log does not
--- config
    location / { llm_pass mock; }
--- request
GET /v1/models
--- more_headers
X-Request-Id: a"b
--- response_headers_like
X-Request-Id: [0-9a-f]{32}



=== TEST 20: the engine's own error passes unchanged
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"mock":{"status":429,"retry_after":7}}
--- more_headers
Content-Type: application/json
--- error_code: 429
--- response_headers
Content-Type: application/json
Retry-After: 7



=== TEST 21: error_page sees the engine's 503
--- config
    error_page 503 = @other;
    location / { llm_pass mock; }
    location @other { return 200 "fallback\n"; }
--- request
POST /v1/chat/completions
{"mock":{"refuse":true}}
--- more_headers
Content-Type: application/json
--- response_headers
! Retry-After
--- response_body
fallback



=== TEST 22: nginx's own refusals are JSON below llm_pass
--- config
    location / { deny all; llm_pass mock; }
--- request
GET /v1/models
--- error_code: 403
--- response_headers
Content-Type: application/json
--- response_body_like: "type":"permission_error","param":null,"code":"forbidden"



=== TEST 23: and stay HTML elsewhere, or when they shall
--- config
    location /a { return 403; }
    location /v1 { deny all; llm_pass mock; llm_json_errors off; }
    location /c { return 403; llm_json_errors on; }
--- pipelined_requests eval
["GET /a", "GET /v1/models", "GET /c"]
--- error_code eval
[403, 403, 403]
--- response_headers eval
["Content-Type: text/html", "Content-Type: text/html", "Content-Type: application/json"]



=== TEST 24: a page of error_page's own stays
--- config
    error_page 403 /page.html;
    location = /page.html { }
    location / { deny all; llm_pass mock; }
--- user_files
>>> page.html
mine
--- request
GET /v1/models
--- error_code: 403
--- response_body
mine



=== TEST 25: text that return gives stays
--- config
    location / { llm_json_errors on; return 404 "mine\n"; }
--- request
GET /x
--- error_code: 404
--- response_body
mine



=== TEST 26: limit_req with 429
--- http_config
    limit_req_zone $server_name zone=one:1m rate=1r/m;
--- config
    location / { limit_req zone=one; limit_req_status 429; llm_pass mock; }
--- pipelined_requests eval
["GET /v1/models", "GET /v1/models"]
--- error_code eval
[200, 429]
--- response_headers eval
["Content-Type: application/json", "Content-Type: application/json\nRetry-After: 1"]
--- response_body_like eval
["list", "rate_limit_error"]



=== TEST 27: llm_health
--- config
    location = /live { llm_health live; }
    location = /ready { llm_health ready; }
    location = /one { llm_health ready mock; }
--- pipelined_requests eval
["GET /live", "GET /ready", "GET /one"]
--- response_body eval
["{\"status\":\"live\"}\n", "{\"status\":\"ready\",\"engines\":{\"mock\":\"ready\"}}\n", "{\"status\":\"ready\",\"engines\":{\"mock\":\"ready\"}}\n"]



=== TEST 28: variables in the access log
--- http_config
    log_format usage '$llm_engine|$llm_model|$llm_stream|$llm_prompt_tokens|$llm_cached_tokens|$llm_completion_tokens|$llm_finish_reason|$llm_request_id';
--- config
    access_log logs/access.log usage;
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":7,"prompt_tokens":11,"cached_tokens":4,"finish":"length"}}
--- more_headers
Content-Type: application/json
X-Request-Id: myid
--- response_body_like: \[DONE\]
--- access_log
mock|mock|1|11|4|7|length|myid



=== TEST 29: a llm_pass that names no engine
--- config
    location / { llm_pass none; }
--- must_die
--- error_log eval
qr/no "llm_engine none" is defined, but "llm_pass" names it in \S+nginx.conf:\d+/



=== TEST 30: an engine twice
--- http_config
    llm_engine mock { server unix:/x; }
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log
duplicate engine "mock"



=== TEST 31: an unknown endpoint
--- config
    location / { llm_pass mock; llm_endpoint poetry; }
--- must_die
--- error_log
unknown endpoint "poetry"
