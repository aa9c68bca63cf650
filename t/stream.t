# stream.t - answers token by token, by every kind of client and beside nginx's own directives.
use Test::Nginx::Socket;
use FindBin;

require "$FindBin::Bin/lib/LLM/Mock.pm";

LLM::Mock::setup();
no_long_string();
no_root_location();

plan tests => 54;
run_tests();

__DATA__

=== TEST 1: a stream really streams: the time-out is shorter than the answer
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":5,"delay_ms":200}}
--- more_headers
Content-Type: application/json
--- timeout: 500ms
--- response_headers
Content-Type: text/event-stream; charset=utf-8
Cache-Control: no-cache
X-Accel-Buffering: no
Transfer-Encoding: chunked
--- response_body_like: ^data: \{.*"content":"tok4 ".*\n\ndata: \[DONE\]\n\n$
--- no_error_log
[alert]
[error]



=== TEST 2: HTTP/1.0
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions HTTP/1.0
{"stream":true,"mock":{"tokens":3}}
--- more_headers
Content-Type: application/json
--- response_headers
! Transfer-Encoding
Connection: close
--- response_body_like: tok2 .*\[DONE\]



=== TEST 3: pipelined behind a stream
--- config
    location / { llm_pass mock; }
--- pipelined_requests eval
["POST /v1/chat/completions\n{\"stream\":true,\"mock\":{\"tokens\":3,\"delay_ms\":30}}",
 "POST /v1/chat/completions\n{\"mock\":{\"tokens\":1}}", "GET /v1/models"]
--- more_headers
Content-Type: application/json
--- response_body_like eval
[qr/tok2 .*\[DONE\]/s, qr/"content":"tok0 "/, qr/"list"/]



=== TEST 4: a long answer in large tokens
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"mock":{"tokens":100,"bytes":10000}}
--- more_headers
Content-Type: application/json
--- timeout: 10
--- response_body_like: "completion_tokens":100\b
--- no_error_log
[alert]



=== TEST 5: gzip sends each event at once
--- config
    location / { llm_pass mock; gzip on; gzip_types *; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":4,"delay_ms":200}}
--- more_headers
Content-Type: application/json
Accept-Encoding: gzip
--- timeout: 500ms
--- response_headers
Content-Encoding: gzip
--- no_error_log
[alert]



=== TEST 6: limit_rate
--- config
    location / { llm_pass mock; limit_rate 4k; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":40}}
--- more_headers
Content-Type: application/json
--- timeout: 5
--- response_body_like: tok39 .*\[DONE\]
--- no_error_log
[alert]



=== TEST 7: an engine that dies in the middle of a plain answer before the head
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"mock":{"close":true}}
--- more_headers
Content-Type: application/json
--- error_code: 503
--- response_body_like: "code":"engine_lost"
--- no_error_log
[alert]



=== TEST 8: a session lost in a stream: one event, no [DONE], the connection closed
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":4,"delay_ms":50,"corrupt":"len"}}
--- more_headers
Content-Type: application/json
--- response_body_like: tok1 .*\n\ndata: \{"error":\{"message":"The engine was lost\.","type":"server_error","param":null,"code":"engine_lost"\}\}\n\n$
--- error_log
broke the protocol



=== TEST 9: llm_read_timeout before the first byte
--- config
    location / { llm_pass mock; llm_read_timeout 200ms; }
--- request
POST /v1/chat/completions
{"mock":{"hang":true}}
--- more_headers
Content-Type: application/json
--- error_code: 504
--- response_body_like: "code":"timeout"
--- error_log
engine "mock" timed out



=== TEST 10: llm_read_timeout in a stream
--- config
    location / { llm_pass mock; llm_read_timeout 200ms; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":3,"delay_ms":1000}}
--- more_headers
Content-Type: application/json
--- response_body_like: "code":"timeout"\}\}\n\n$
--- error_log
engine "mock" timed out



=== TEST 11: the client leaves
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":50,"delay_ms":300}}
--- more_headers
Content-Type: application/json
--- timeout: 100ms
--- abort
--- ignore_response
--- wait: 0.4
--- error_log
client prematurely closed connection
llm: cancel request
--- no_error_log
[alert]



=== TEST 12: SSI includes one whole answer
--- config
    location = /page { default_type text/html; ssi on; return 200 "<!--#include virtual=\"/v1/models\" -->|\n"; }
    location / { llm_pass mock; }
--- request
GET /page
--- response_body_like: ^\{"object":"list".*\}\|\n$
--- no_error_log
[alert]



=== TEST 13: auth_request before us, and its refusal as JSON
--- config
    location = /yes { internal; return 200; }
    location = /nay { internal; return 401; }
    location /ok/ { auth_request /yes; llm_pass mock; }
    location /no/ { auth_request /nay; llm_pass mock; }
--- pipelined_requests eval
["GET /ok/v1/models", "GET /no/v1/models"]
--- error_code eval
[200, 401]
--- response_body_like eval
[qr/"list"/, qr/"type":"authentication_error"/]



=== TEST 14: mirror copies a request
--- config
    location / { mirror /copy; llm_pass mock; }
    location = /copy { internal; llm_pass mock; llm_endpoint chat_completions; }
--- request
POST /v1/chat/completions
{"mock":{"tokens":1}}
--- more_headers
Content-Type: application/json
--- response_body_like: tok0
--- no_error_log
[alert]



=== TEST 15: proxied by another nginx
--- config
    location /in/ { llm_pass mock; }
    location / { proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/in/; proxy_http_version 1.1; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":4,"delay_ms":200}}
--- more_headers
Content-Type: application/json
--- timeout: 500ms
--- response_body_like: tok3 .*\[DONE\]
