# native_errors.t - each status that nginx itself refuses with, from a real cause.
#
# llm_json_errors on: an OpenAI error with a fitting type and code; HEAD,
# HTTP/1.0, keep-alive; what the operator gives to error_page stays.
use Test::Nginx::Socket;
use FindBin;

require "$FindBin::Bin/lib/LLM/Mock.pm";

# The whole document, so that nothing of nginx's page can be left in it.
sub document {
    my ($type, $code, $message) = @_;
    $message //= '[A-Z][^"]+\.';
    return qr/\A\{"error":\{"message":"$message","type":"$type","param":null,"code":"$code"\}\}\n\z/;
}

LLM::Mock::setup();
no_long_string();
no_root_location();

plan tests => 146;
run_tests();

__DATA__

=== TEST 1: 400, the request line is none: no location is known yet
--- config
    llm_json_errors on;
    location / { llm_pass mock; }
--- raw_request eval
"NONSENSE\r\n\r\n"
--- error_code: 400
--- response_headers
Content-Type: application/json
Connection: close
--- response_body_like eval
main::document('invalid_request_error', 'bad_request')



=== TEST 2: 400, no Host
--- config
    llm_json_errors on;
    location / { llm_pass mock; }
--- raw_request eval
"GET / HTTP/1.1\r\n\r\n"
--- error_code: 400
--- response_body_like eval
main::document('invalid_request_error', 'bad_request')



=== TEST 3: 400, two lengths; llm_json_errors of http{} holds too
--- http_config
    llm_json_errors on;
--- config
    location / { llm_pass mock; }
--- raw_request eval
"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"
--- error_code: 400
--- response_body_like eval
main::document('invalid_request_error', 'bad_request')



=== TEST 4: a server without the directive keeps nginx's page
--- config
    location / { llm_pass mock; }
--- raw_request eval
"NONSENSE\r\n\r\n"
--- error_code: 400
--- response_headers
Content-Type: text/html



=== TEST 5: 414, the URI is too long
--- config
    llm_json_errors on;
    client_header_buffer_size 256;
    large_client_header_buffers 2 1k;
    location / { llm_pass mock; }
--- raw_request eval
"GET /" . ("x" x 2000) . " HTTP/1.1\r\nHost: localhost\r\n\r\n"
--- error_code: 414
--- response_body_like eval
main::document('invalid_request_error', 'uri_too_long')



=== TEST 6: 494, a header is too large; 400 for the client, with a code of its own
--- config
    llm_json_errors on;
    client_header_buffer_size 256;
    large_client_header_buffers 2 1k;
    location / { llm_pass mock; }
--- raw_request eval
"GET / HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " . ("x" x 2000) . "\r\n\r\n"
--- error_code: 400
--- response_body_like eval
main::document('invalid_request_error', 'headers_too_large', 'The request headers are too large\.')



=== TEST 7: 494, too many headers, behind a Content-Length
--- config
    llm_json_errors on;
    client_header_buffer_size 256;
    large_client_header_buffers 2 1k;
    location / { llm_pass mock; }
--- raw_request eval
"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n"
. join('', map { "X-Header-$_: " . ('y' x 100) . "\r\n" } 1 .. 40) . "\r\nabcde"
--- error_code: 400
--- response_body_like eval
main::document('invalid_request_error', 'headers_too_large')



=== TEST 8: a plain 400 of a location does not count as one
--- config
    llm_json_errors on;
    location / { return 400; }
--- request eval
"POST /\n" . ("x" x 3000)
--- error_code: 400
--- response_body_like eval
main::document('invalid_request_error', 'bad_request')



=== TEST 9: 408 is never answered: nginx closes without a word, and logs it
--- config
    llm_json_errors on;
    client_body_timeout 200ms;
    access_log logs/access.log combined;
    location / { llm_pass mock; }
--- raw_request eval
"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
. "Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{"
--- ignore_response
--- access_log eval
qr/" 408 0 /



=== TEST 10: 507, a status of WebDAV's
--- config
    llm_json_errors on;
    location / { return 507; }
--- request
GET /
--- error_code: 507
--- response_body_like eval
main::document('server_error', 'insufficient_storage')



=== TEST 11: 401, auth_basic: its challenge stays
--- config
    location / { auth_basic "models"; auth_basic_user_file ../html/users; llm_pass mock; }
--- user_files
>>> users
alice:{PLAIN}wonder
--- pipelined_requests eval
["GET /v1/models", "GET /v1/models"]
--- more_headers eval
["X-A: b", "Authorization: Basic YWxpY2U6d3Jvbmc="]
--- error_code eval
[401, 401]
--- response_headers eval
[("Content-Type: application/json\nWWW-Authenticate: Basic realm=\"models\"") x 2]
--- response_body_like eval
[(main::document('authentication_error', 'invalid_api_key', 'Authentication is required\.')) x 2]



=== TEST 12: 401 to a key says that it is the key
--- config
    location / { if ($llm_key != sk-1) { return 401; } llm_pass mock; }
--- request
GET /v1/models
--- more_headers
Authorization: Bearer sk-2
--- error_code: 401
--- response_body_like eval
main::document('authentication_error', 'invalid_api_key', 'The API key is not valid\.')



=== TEST 13: 403, deny
--- config
    location / { deny all; llm_pass mock; }
--- request
GET /v1/models
--- error_code: 403
--- response_body_like eval
main::document('permission_error', 'forbidden')



=== TEST 14: 404, a file that is not there; 403, a directory
--- config
    llm_json_errors on;
    location / { root html; }
--- user_files
>>> dir/x
x
--- pipelined_requests eval
["GET /none", "GET /dir/", "GET /dir/x"]
--- error_code eval
[404, 403, 200]
--- response_body_like eval
[main::document('invalid_request_error', 'not_found'), main::document('permission_error', 'forbidden'), qr/\Ax\n\z/]



=== TEST 15: 405, TRACE, before a location is chosen
--- config
    llm_json_errors on;
    location / { llm_pass mock; }
--- request
TRACE /
--- error_code: 405
--- response_body_like eval
main::document('invalid_request_error', 'method_not_allowed')



=== TEST 16: 405, POST for a file
--- config
    llm_json_errors on;
    location / { root html; }
--- user_files
>>> x
x
--- request
POST /x
abc
--- error_code: 405
--- response_body_like eval
main::document('invalid_request_error', 'method_not_allowed')



=== TEST 17: 413, by Content-Length and by chunks
--- config
    location / { client_max_body_size 10; llm_pass mock; }
--- raw_request eval
["POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n0123456789a",
 "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nb\r\n0123456789a\r\n0\r\n\r\n"]
--- error_code eval
[413, 413]
--- response_body_like eval
[(main::document('invalid_request_error', 'request_too_large')) x 2]



=== TEST 18: 415
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
x
--- more_headers
Content-Type: text/csv
--- error_code: 415
--- response_body_like eval
main::document('invalid_request_error', 'unsupported_media_type')



=== TEST 19: 416, a range beyond a file
--- config
    llm_json_errors on;
    location / { root html; }
--- user_files
>>> x
x
--- request
GET /x
--- more_headers
Range: bytes=100-200
--- error_code: 416
--- response_body_like eval
main::document('invalid_request_error', 'range_not_satisfiable')



=== TEST 20: 429, limit_req; Retry-After comes with it
--- http_config
    limit_req_zone $uri zone=one:1m rate=1r/m;
--- config
    location / { limit_req zone=one; limit_req_status 429; llm_pass mock; }
--- pipelined_requests eval
["GET /v1/models", "GET /v1/models"]
--- error_code eval
[200, 429]
--- response_headers eval
["! Retry-After", "Retry-After: 1"]
--- response_body_like eval
[qr/"object":"list"/, main::document('rate_limit_error', 'rate_limit_exceeded')]



=== TEST 21: a Retry-After that the server behind has set stays alone
--- http_config
    server { listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1;
        location / { add_header Retry-After 30 always; return 503; } }
--- config
    llm_json_errors on;
    location / { proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
--- request
GET /
--- error_code: 503
--- raw_response_headers_like: Retry-After: 30\r\n
--- raw_response_headers_unlike: Retry-After: 1\r\n
--- response_body_like: <html>



=== TEST 22: 500, a cycle of rewrites
--- config
    llm_json_errors on;
    location / { rewrite ^ /a last; }
    location /a { rewrite ^ /b last; }
    location /b { rewrite ^ /a last; }
--- request
GET /
--- error_code: 500
--- response_body_like eval
main::document('server_error', 'internal_error')
--- error_log
rewrite or internal redirection cycle



=== TEST 23: 501, a Transfer-Encoding that nginx does not know
--- config
    llm_json_errors on;
    location / { llm_pass mock; }
--- raw_request eval
"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\nx"
--- error_code: 501
--- response_body_like eval
main::document('server_error', 'not_implemented')



=== TEST 24: 502, nobody listens
--- config
    llm_json_errors on;
    location / { proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
--- request
GET /
--- error_code: 502
--- response_body_like eval
main::document('server_error', 'bad_gateway')
--- error_log
connect() failed



=== TEST 25: 503, limit_conn: the request of the server behind is the second
--- http_config
    limit_conn_zone $server_name zone=two:1m;
--- config
    limit_conn two 1;
    location /outer/ { proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/; }
    location / { llm_pass mock; }
--- request
GET /outer/v1/models
--- error_code: 503
--- response_headers
Content-Type: application/json
Retry-After: 1
--- response_body_like eval
main::document('server_error', 'unavailable')
--- error_log
limiting connections by zone "two"



=== TEST 26: 504, the server behind is silent
--- config
    llm_json_errors on;
    location / { llm_pass mock; }
    location /slow/ { proxy_read_timeout 200ms; proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/; }
--- request
POST /slow/v1/chat/completions
{"mock":{"first_ms":1500,"tokens":1}}
--- more_headers
Content-Type: application/json
--- error_code: 504
--- response_body_like eval
main::document('server_error', 'timeout')
--- error_log
upstream timed out



=== TEST 27: 504, the engine is silent
--- config
    llm_read_timeout 200ms;
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"mock":{"hang":true}}
--- more_headers
Content-Type: application/json
--- error_code: 504
--- response_body_like eval
main::document('server_error', 'timeout', 'The engine has not answered in time\.')
--- error_log
timed out



=== TEST 28: 505, a version of HTTP that does not exist
--- config
    llm_json_errors on;
    location / { llm_pass mock; }
--- raw_request eval
"GET / HTTP/7.0\r\nHost: localhost\r\n\r\n"
--- error_code: 505
--- response_body_like eval
main::document('server_error', 'http_version_not_supported')



=== TEST 29: statuses that nginx has no page for are not left empty
--- config
    llm_json_errors on;
    location /431 { return 431; }
    location /451 { return 451; }
    location /411 { return 411; }
--- pipelined_requests eval
["GET /431", "GET /451", "GET /411"]
--- error_code eval
[431, 451, 411]
--- response_headers eval
[("Content-Type: application/json") x 3]
--- response_body_like eval
[main::document('invalid_request_error', 'headers_too_large'),
 qr/\A\{"error":\{"message":"The request was refused\.","type":"invalid_request_error","param":null,"code":null\}\}\n\z/,
 main::document('invalid_request_error', 'length_required')]



=== TEST 30: redirects are no errors
--- config
    llm_json_errors on;
    location / { return 302 /x; }
--- request
GET /
--- error_code: 302
--- response_headers
Content-Type: text/html



=== TEST 31: HEAD has the header of GET and no body
--- config
    llm_json_errors on;
    location / { return 404; }
--- request
HEAD /
--- error_code: 404
--- response_headers
Content-Type: application/json
Content-Length: 111
--- response_body eval
""



=== TEST 32: HTTP/1.0
--- config
    llm_json_errors on;
    location / { return 404; }
--- raw_request eval
"GET / HTTP/1.0\r\n\r\n"
--- error_code: 404
--- response_headers
Content-Length: 111
Connection: close
--- response_body_like eval
main::document('invalid_request_error', 'not_found')



=== TEST 33: HTTP/1.0 that asks for keep-alive gets a second answer
--- config
    llm_json_errors on;
    location / { return 404; }
--- pipelined_requests eval
["GET / HTTP/1.0", "GET / HTTP/1.0"]
--- error_code eval
[404, 404]
--- response_headers eval
["Content-Length: 111\nConnection: keep-alive", "Content-Length: 111\nConnection: close"]
--- response_body_like eval
[(main::document('invalid_request_error', 'not_found')) x 2]



=== TEST 34: a body that nobody has read is no next request
--- config
    location / { deny all; llm_pass mock; }
--- pipelined_requests eval
["POST /v1/chat/completions\nGET /inside HTTP/1.1\r\n\r\n", "GET /v1/models"]
--- error_code eval
[403, 403]
--- response_body_like eval
[(main::document('permission_error', 'forbidden')) x 2]



=== TEST 35: with gzip
--- config
    gzip on; gzip_min_length 0; gzip_types application/json;
    llm_json_errors on;
    location / { return 404; }
--- pipelined_requests eval
["GET /", "GET /"]
--- more_headers eval
["Accept-Encoding: gzip", "X-A: b"]
--- error_code eval
[404, 404]
--- response_headers eval
["Content-Encoding: gzip\nContent-Type: application/json", "Content-Length: 111"]
--- response_body_like eval
[qr/\A\x1f\x8b/, main::document('invalid_request_error', 'not_found')]



=== TEST 36: add_header always, for browsers that want to read the error
--- config
    add_header Access-Control-Allow-Origin * always;
    location / { deny all; llm_pass mock; }
--- request
GET /v1/models
--- error_code: 403
--- response_headers
Access-Control-Allow-Origin: *
Content-Type: application/json



=== TEST 37: error_page wins: a file, text of return, what a server behind says, with and without Expect
--- http_config
    server { listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1; default_type text/html; return 200 "<b>page</b>"; }
--- config
    llm_json_errors on;
    location = /page.html { root html; }
    location = /text { default_type text/html; return 200 "<b>text</b>"; }
    location = /behind { proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
    location /1 { error_page 415 /page.html; llm_pass mock; llm_endpoint chat_completions; }
    location /2 { error_page 415 /text; llm_pass mock; llm_endpoint chat_completions; }
    location /3 { error_page 415 /behind; llm_pass mock; llm_endpoint chat_completions; }
    location /4 { error_page 429 /text; llm_pass mock; llm_endpoint chat_completions; }
--- user_files
>>> page.html
<b>file</b>
--- raw_request eval
my @r = map { my $uri = $_; map { "POST $uri HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n${_}Content-Length: 1\r\n\r\nx" } "", "Expect: 100-continue\r\n" } "/1", "/2", "/3"; \@r
--- error_code_like eval
[(qr/415|100/) x 6]
--- response_body_like eval
[qr/<b>file/, qr/<b>file/, qr/<b>text/, qr/<b>text/, qr/<b>page/, qr/<b>page/]



=== TEST 38: an error page that itself fails is an error of nginx's again
--- config
    llm_json_errors on;
    location / { error_page 403 /gone.html; deny all; }
    location = /gone.html { allow all; root html; }
--- request
GET /
--- error_code: 404
--- response_headers
Content-Type: application/json
--- response_body_like eval
main::document('invalid_request_error', 'not_found')



=== TEST 39: what a server behind says of itself is not touched
--- http_config
    server { listen 127.0.0.1:$TEST_NGINX_RAND_PORT_1; return 404; }
--- config
    llm_json_errors on;
    location / { proxy_pass http://127.0.0.1:$TEST_NGINX_RAND_PORT_1; }
--- request
GET /
--- error_code: 404
--- response_headers
Content-Type: text/html



=== TEST 40: 499 is in the log when the client has left
--- config
    access_log logs/access.log combined;
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"mock":{"first_ms":5000}}
--- more_headers
Content-Type: application/json
--- timeout: 0.2
--- abort
--- ignore_response
--- wait: 0.3
--- access_log eval
qr/" 499 0 /



=== TEST 41: llm_retry_after: a time, a variable, none
--- http_config
    map $arg_t $wait { default ""; a 90; b nonsense; }
--- config
    llm_json_errors on;
    location /1 { llm_retry_after 2m; return 503; }
    location /2 { llm_retry_after $wait; return 429; }
    location /3 { llm_retry_after 0; return 503; }
    location /4 { return 429; }
--- pipelined_requests eval
["GET /1", "GET /2?t=a", "GET /2", "GET /2?t=b", "GET /3", "GET /4"]
--- error_code eval
[503, 429, 429, 429, 503, 429]
--- response_headers eval
["Retry-After: 120", "Retry-After: 90", "! Retry-After", "! Retry-After", "! Retry-After", "Retry-After: 1"]



=== TEST 42: llm_retry_after that is no time
--- config
    llm_retry_after soon;
    location / { llm_pass mock; }
--- must_die
--- error_log
invalid "llm_retry_after" value "soon"



=== TEST 43: every error has an id, the client's if it is harmless, also in the log
--- http_config
    log_format id 'id=$llm_request_id $status';
--- config
    access_log logs/access.log id;
    llm_json_errors on;
    location / { return 403; }
--- request
GET /
--- more_headers
X-Request-Id: abc-1
--- error_code: 403
--- response_headers
X-Request-Id: abc-1
--- access_log
id=abc-1 403



=== TEST 44: and one of nginx's where nothing could be read
--- config
    llm_json_errors on;
    location / { llm_pass mock; }
--- raw_request eval
"NONSENSE\r\n\r\n"
--- error_code: 400
--- response_headers_like
X-Request-Id: [0-9a-f]{32}
