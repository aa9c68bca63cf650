# request.t - every way to write a request, checked by what nginx saw of it.
use Test::Nginx::Socket;

repeat_each(1);
plan tests => 48;
run_tests();

__DATA__

=== TEST 1: a bare method asks for / in HTTP/1.1
--- config
    location = / { return 200 "$request|$http_host|$http_connection|$http_content_length\n"; }
--- request
GET
--- response_body
GET / HTTP/1.1|localhost|close|
--- no_error_log
[error]



=== TEST 2: method, URL and version
--- config
    location = /v { return 200 "$request\n"; }
--- request
    GET /v?a=b HTTP/1.0
--- response_body
GET /v?a=b HTTP/1.0



=== TEST 3: a body is trimmed at both ends and measured
--- config
    location = /b {
        proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/echo;
    }
    location = /echo {
        client_body_in_single_buffer on;
        proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/echo2;
    }
    location = /echo2 { return 200 "$http_content_length\n"; }
--- request
POST /b

  two words  

--- response_body
9



=== TEST 4: more_headers, with a comment and an own Host
--- config
    location = /h { return 200 "$http_host|$http_x_one|$http_x_two\n"; }
--- request
GET /h
--- more_headers
X-One: 1
# X-Two: no
Host: example.org
X-Two:2
--- response_body
example.org|1|2



=== TEST 5: blank more_headers
--- config
    location = /h { return 200 "ok\n"; }
--- request
GET /h
--- more_headers
--- response_body
ok



=== TEST 6: several requests on connections of their own
--- config
    location = /a { return 200 "a$http_x_n\n"; }
    location = /b { return 404 "b$http_x_n\n"; }
--- request eval
["GET /a", "GET /b", "GET /a"]
--- more_headers eval
["X-N: 1", "X-N: 2", "X-N: 3"]
--- error_code eval
[200, 404, 200]
--- response_body eval
["a1\n", qr/^b2$/m, "a3\n"]
--- no_error_log
[error]



=== TEST 7: one request in packets with delays
--- config
    location = /p {
        if ($request_time) { set $x 1; }
        proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/len;
    }
    location = /len { return 200 "$request_method|$http_content_length|$http_x_p\n"; }
--- request eval
[["PO", {value => "ST /p\nab", delay_before => 0.05}, {value => "cdef", delay_before => 0.05}]]
--- more_headers
X-P: yes
--- response_body
POST|6|yes



=== TEST 8: a packet border between headers and body
--- config
    location = /p { proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/len; }
    location = /len { return 200 "$http_content_length\n"; }
--- request eval
[["POST /p\n", {value => "body", delay_before => 0.05}]]
--- response_body
4



=== TEST 9: raw_request, one string
--- config
    location = /r { return 200 "$http_x_raw\n"; }
--- raw_request eval
"GET /r HTTP/1.1\r\nHost: localhost\r\nX-Raw: 1\r\nConnection: close\r\n\r\n"
--- response_body
1



=== TEST 10: raw_request in packets
--- config
    location = /r { return 200 "$http_x_raw\n"; }
--- raw_request eval
["GET /r HTTP/1.1\r\nHost: loc", "alhost\r\nX-Raw: 2\r\nConn", "ection: close\r\n\r\n"]
--- raw_request_middle_delay: 0.05
--- response_body
2



=== TEST 11: a raw request that is no HTTP
--- config
    location = /r { return 200; }
--- raw_request eval
"GARBAGE\r\n\r\n"
--- error_code: 400
--- response_body_like: 400 Bad Request



=== TEST 12: a chunked request body
--- config
    location = /c { proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/len; }
    location = /len { return 200 "$http_content_length|$http_transfer_encoding\n"; }
--- request eval
"POST /c
5\r
hello\r
3\r
abc\r
0\r
\r
"
--- more_headers
Transfer-Encoding: chunked
--- response_body
8|



=== TEST 13: an own Content-Length is left alone, and so is the body
--- config
    location = /c { proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/len; }
    location = /len { return 200 "$http_content_length\n"; }
--- request eval
"POST /c\nab  "
--- more_headers
Content-Length: 4
--- response_body
4



=== TEST 14: pipelined requests on one connection
--- config
    location = /a { return 200 "a $connection_requests $http_connection\n"; }
    location = /b { return 201 "b $connection_requests $http_connection\n"; }
--- pipelined_requests eval
["GET /a", 'GET /b?$TEST_NGINX_SERVER_PORT', "GET /a"]
--- error_code eval
[200, 201, 200]
--- response_body eval
["a 1 keep-alive\n", "b 2 keep-alive\n", "a 3 close\n"]



=== TEST 15: HEAD has no body and that is no complaint
--- config
    location = /h { return 200 "hello\n"; }
--- request
HEAD /h
--- response_headers
Content-Length: 6
--- response_body chomp



=== TEST 16: shutdown after sending is seen as an abort by a proxying nginx
--- config
    location = /s { return 200 "ok\n"; }
--- request
GET /s
--- shutdown: 1
--- ignore_response
--- no_error_log
[alert]



=== TEST 17: HTTP/0.9
--- config
    location = /o { return 200 "old\n"; }
--- raw_request eval
"GET /o\r\n"
--- http09
--- response_body
old



=== TEST 18: comments before the request line
--- config
    location = /t { return 200 "ok\n"; }
--- request
# this one
# and that one
GET /t
--- response_body
ok
