# native_locations.t - llm_pass beside what else nginx puts into a location:
# fallbacks, rewrites, if, limit_except, nesting, mirror, ssi, X-Accel, gzip, CORS.
use Test::Nginx::Socket;
use FindBin;

require "$FindBin::Bin/lib/LLM/Mock.pm";

LLM::Mock::setup();
no_long_string();
no_root_location();

plan tests => 134;
run_tests();

__DATA__

=== TEST 1: fallback: what the engine refuses goes elsewhere, with its method and body
--- http_config
    server {
        listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        location / { add_header X-Saw "$request_method $uri $http_content_length"; llm_pass mock; }
    }
--- config
    location / { error_page 502 503 504 = @fallback; llm_pass mock; llm_read_timeout 200ms; }
    location @fallback { rewrite ^ /v1/completions break; proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        proxy_set_body '{"prompt":"a","length":$content_length,"mock":{"tokens":1}}'; }
--- pipelined_requests eval
["POST /v1/chat/completions\n{\"mock\":{\"refuse\":true}}",
 "POST /v1/chat/completions\n{\"mock\":{\"hang\":true}}",
 "POST /v1/chat/completions\n{\"mock\":{\"status\":502}}"]
--- more_headers
Content-Type: application/json
--- error_code eval
[200, 200, 200]
--- response_headers eval
["X-Saw: POST /v1/completions 46", "X-Saw: POST /v1/completions 46", "X-Saw: POST /v1/completions 46"]
--- response_body_like eval
[(qr/tok0/) x 3]



=== TEST 2: fallback: the same body, from memory and from a file
--- http_config
    server {
        listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        location / { llm_pass $arg_engine; }
        location /echo/ { return 200 "$request_method $content_length"; }
    }
--- config
    location / { error_page 503 = @fallback; client_body_buffer_size 1k; llm_pass mock; }
    location @fallback { proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1/echo$uri; }
--- pipelined_requests eval
[map { "POST /v1/chat/completions\n" . '{"pad":"' . ('x' x $_) . '","mock":{"refuse":true}}' } 10, 100_000]
--- more_headers
Content-Type: application/json
--- response_body eval
["POST 43", "POST 100033"]



=== TEST 3: fallback: a limit's 429 as well, whose body has not been read yet
--- http_config
    limit_req_zone $uri zone=one:1m rate=1r/m;
    server { listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1; location / { llm_pass mock; } }
--- config
    limit_req_status 429;
    location / { error_page 429 = @fallback; limit_req zone=one; llm_pass mock; }
    location @fallback { add_header X-From remote; proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
--- pipelined_requests eval
[("POST /v1/completions\n{\"prompt\":\"a\",\"mock\":{\"tokens\":2}}") x 2]
--- more_headers
Content-Type: application/json
--- error_code eval
[200, 200]
--- response_headers eval
["! X-From", "X-From: remote"]
--- response_body_like eval
[qr/tok1/, qr/tok1/]



=== TEST 4: fallback: an engine that is not there
--- http_config
    llm_engine gone { server unix:/nonexistent/gone.sock; }
    llm_connect_timeout 200ms;
--- config
    location / { error_page 503 = @fallback; llm_pass gone; }
    location @fallback { llm_pass mock; }
--- request
POST /v1/completions
{"prompt":"a","mock":{"tokens":2}}
--- more_headers
Content-Type: application/json
--- response_body_like: tok1



=== TEST 5: fallback: never after the first byte
--- config
    location / { error_page 502 503 504 = @fallback; llm_pass mock; llm_read_timeout 300ms; }
    location @fallback { return 200 "fallback"; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":4,"no_end":true}}
--- more_headers
Content-Type: application/json
--- response_body_like: (?s)\A(?!.*fallback).*tok3
--- error_log
timed out



=== TEST 6: a fallback that fails is an error in JSON
--- config
    location / { error_page 503 = @fallback; llm_pass mock; }
    location @fallback { llm_json_errors on; proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
--- request
POST /v1/completions
{"mock":{"refuse":true}}
--- more_headers
Content-Type: application/json
--- error_code: 502
--- response_headers
Content-Type: application/json
--- response_body_like: "code":"bad_gateway"
--- error_log
connect() failed



=== TEST 7: return and rewrite beside llm_pass
--- config
    location = /v1/models/secret { return 404; }
    location /old/ { rewrite ^/old/(.*)$ /v1/$1 last; }
    location /here/ { rewrite ^/here(/.*)$ $1 break; llm_pass mock; }
    location /v1/ { rewrite /private 403; if ($arg_no) { return 403; } llm_pass mock; }
--- pipelined_requests eval
["GET /old/models", "GET /here/v1/models", "GET /v1/models?no=1", "GET /v1/models/mock", "GET /v1/models/secret"]
--- error_code eval
[200, 200, 403, 200, 404]
--- response_body_like eval
[qr/"object":"list"/, qr/"object":"list"/, qr/"code":"forbidden"/, qr/"id":"mock"/, qr/<html>/]



=== TEST 8: return answers before llm_pass is asked
--- config
    location / { return 200 "mine"; llm_pass mock; }
--- request
GET /v1/models
--- response_body: mine



=== TEST 9: if in location inherits llm_pass, or has its own
--- config
    location / {
        llm_pass mock;
        if ($arg_a) { add_header X-If inherited; }
        if ($arg_b) { llm_pass $arg_b; }
        if ($arg_c) { set $x 1; }
    }
--- pipelined_requests eval
["GET /v1/models?a=1", "GET /v1/models?b=none", "GET /v1/models?c=1", "GET /nothing?a=1"]
--- error_code eval
[200, 404, 200, 404]
--- response_headers eval
["X-If: inherited", "Content-Type: application/json", "! X-If", "Content-Type: application/json"]



=== TEST 10: limit_except: only whom it allows may do more than read
--- config
    location / {
        llm_pass mock;
        limit_except GET { deny all; }
    }
--- pipelined_requests eval
["GET /v1/models", "POST /v1/completions\n{}"]
--- more_headers
Content-Type: application/json
--- error_code eval
[200, 403]
--- response_body_like eval
[qr/"object":"list"/, qr/"code":"forbidden"/]



=== TEST 11: nested and named locations, try_files
--- config
    location /llm/ {
        llm_json_errors on;
        location /llm/a/ { llm_pass mock; }
        location ~ ^/llm/b/ { llm_pass mock; }
        location /llm/c/ { try_files /none @named; }
        return 418;
    }
    location @named { llm_pass mock; }
--- pipelined_requests eval
["GET /llm/a/v1/models", "GET /llm/b/v1/models", "GET /llm/c/v1/models", "GET /llm/d/v1/models"]
--- error_code eval
[200, 200, 200, 418]
--- response_body_like eval
[(qr/"object":"list"/) x 3, qr/\A\{"error":\{"message":"The request was refused\."/]



=== TEST 12: a location below llm_pass does not inherit it
--- config
    location / { llm_pass mock; location /files/ { root html; } }
--- user_files
>>> files/x
file
--- request
GET /files/x
--- response_body
file



=== TEST 13: mirror to another server, which sees the body; the answer is ours
--- http_config
    log_format shadow 'shadow $request_method $content_length';
    server { listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1; access_log logs/access.log shadow;
        location / { llm_pass mock; } }
--- config
    location / { mirror /shadow; llm_pass mock; }
    location = /shadow { internal; proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1$request_uri; }
--- request
POST /v1/completions
{"prompt":"a","mock":{"tokens":2}}
--- more_headers
Content-Type: application/json
--- response_body_like: tok1
--- wait: 0.1
--- access_log
shadow POST 34
--- no_error_log
[error]
[alert]



=== TEST 14: mirror to an engine; it may take longer than the answer
--- config
    location / { mirror /shadow; llm_pass mock; }
    location = /shadow { internal; llm_pass mock; llm_endpoint completions; }
--- pipelined_requests eval
[("POST /v1/completions\n{\"prompt\":\"a\",\"mock\":{\"tokens\":2}}") x 2]
--- more_headers
Content-Type: application/json
--- response_body_like eval
[qr/tok1/, qr/tok1/]
--- no_error_log
[error]
[alert]



=== TEST 15: mirror to an engine that refuses does no harm
--- config
    location / { mirror /shadow; llm_pass mock; llm_endpoint completions; }
    location = /shadow { internal; llm_pass mock; llm_endpoint models; }
--- request
POST /x
{"prompt":"a","mock":{"tokens":2}}
--- more_headers
Content-Type: application/json
--- response_body_like: tok1
--- no_error_log
[alert]



=== TEST 16: ssi includes what the engine answers, and its errors
--- config
    location / { ssi on; root html; }
    location /v1/ { llm_pass mock; }
--- user_files
>>> page.html
<1><!--# include virtual="/v1/models" --><2><!--# include virtual="/v1/nothing" --><3><!--# include virtual="/v1/models/mock" --><4>
--- request
GET /page.html
--- response_body_like: (?s)<1>.*"object":"list".*<2>.*404.*<3>.*"id":"mock".*<4>
--- no_error_log
[alert]



=== TEST 17: X-Accel-Redirect: a program behind looks first, then the engine answers
--- http_config
    server { listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        location / { add_header X-Accel-Redirect @engine; add_header Set-Cookie a=b; return 200; } }
--- config
    location / { proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
    location @engine { llm_pass mock; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":3}}
--- more_headers
Content-Type: application/json
--- response_headers
Content-Type: text/event-stream; charset=utf-8
Set-Cookie: a=b
X-Accel-Buffering: no
--- response_body_like: (?s)tok2.*\[DONE\]
--- no_error_log
[error]
[alert]



=== TEST 18: gzip: a plain answer whole, a stream as it comes
--- config
    gzip on; gzip_min_length 0; gzip_types application/json text/event-stream;
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":4,"delay_ms":300}}
--- more_headers
Content-Type: application/json
Accept-Encoding: gzip
--- timeout: 0.6
--- response_headers
Content-Encoding: gzip
--- response_body_filters eval
use IO::Uncompress::Gunzip; sub { my ($in) = @_; IO::Uncompress::Gunzip::gunzip(\$in, \my $out); $out }
--- response_body_like: (?s)tok0.*tok3.*\[DONE\]
--- no_error_log
[alert]



=== TEST 19: add_header and expires beside the module's own
--- config
    location / { llm_pass mock; add_header X-Served-By nginx; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":1}}
--- more_headers
Content-Type: application/json
--- response_headers
X-Served-By: nginx
Cache-Control: no-cache
X-Accel-Buffering: no



=== TEST 20: CORS: the preflight is nginx's, the rest the engine's
--- config
    location / {
        add_header Access-Control-Allow-Origin * always;
        add_header Access-Control-Allow-Headers "authorization, content-type" always;
        if ($request_method = OPTIONS) { return 204; }
        llm_pass mock;
    }
--- request
OPTIONS /v1/chat/completions
--- more_headers
Origin: http://x
Access-Control-Request-Method: POST
--- error_code: 204
--- response_headers
Access-Control-Allow-Origin: *
Access-Control-Allow-Headers: authorization, content-type



=== TEST 21: CORS: on an answer and on an error
--- config
    location / {
        add_header Access-Control-Allow-Origin * always;
        if ($request_method = OPTIONS) { return 204; }
        llm_pass mock;
    }
--- pipelined_requests eval
["GET /v1/models", "GET /v1/chat/completions"]
--- error_code eval
[200, 405]
--- response_headers eval
["Access-Control-Allow-Origin: *", "Access-Control-Allow-Origin: *\nAllow: POST"]



=== TEST 22: OPTIONS without such a line is refused
--- config
    location / { llm_pass mock; }
--- request
OPTIONS /v1/chat/completions
--- error_code: 405
--- response_headers
Allow: POST



=== TEST 23: stub_status counts our requests
--- config
    location / { llm_pass mock; }
    location = /status { stub_status; }
--- pipelined_requests eval
["GET /v1/models", "GET /status"]
--- response_body_like eval
[qr/"object":"list"/, qr/\AActive connections: 1 \n.*\n \d+ \d+ \d+ \n/]



=== TEST 24: sub_filter and charset leave the documents whole
--- config
    charset utf-8;
    sub_filter_types *; sub_filter_once off;
    location / { sub_filter tok0 tik0; llm_pass mock; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":2}}
--- more_headers
Content-Type: application/json
--- response_headers
Content-Type: text/event-stream; charset=utf-8
--- response_body_like: (?s)tik0.*tok1.*\[DONE\]



=== TEST 25: a log by condition
--- http_config
    map $status $bad { default 0; ~^[45] 1; }
    log_format cond 'cond $status';
--- config
    access_log logs/access.log cond if=$bad;
    location / { llm_pass mock; }
--- pipelined_requests eval
["GET /v1/models", "GET /v1/none"]
--- error_code eval
[200, 404]
--- access_log eval
["cond 404", "cond 404"]
--- no_access_log eval
["cond 200", "cond 200"]



=== TEST 26: post_action, once the answer is out
--- config
    location / { post_action /done; llm_pass mock; }
    location = /done { internal; proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/note; }
    location = /note { access_log logs/access.log combined; return 204; }
--- request
POST /v1/completions
{"prompt":"a","mock":{"tokens":3}}
--- more_headers
Content-Type: application/json
--- response_body_like: tok2
--- access_log eval
qr{"POST /note HTTP/1\.[01]" 204 }
--- no_error_log
[error]
[alert]



=== TEST 27: mirror of a stream that is longer than any buffer, to its end
--- http_config
    log_format whole 'whole $uri $status $llm_finish_reason $llm_completion_tokens';
    log_subrequest on;
--- config
    access_log logs/access.log whole;
    location / { mirror /shadow; llm_pass mock; }
    location = /shadow { internal; llm_pass mock; llm_endpoint chat_completions; }
--- request
POST /v1/chat/completions
{"stream":true,"mock":{"tokens":400,"bytes":1000,"delay_ms":1}}
--- more_headers
Content-Type: application/json
--- response_body_like: (?s)tok399.*\[DONE\]
--- wait: 0.2
--- access_log
whole /shadow 200 stop 400
whole /v1/chat/completions 200 stop 400
--- no_error_log
[error]
[alert]
