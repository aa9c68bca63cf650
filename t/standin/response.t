# response.t - every expectation about a response, and the number of tests it yields.
use Test::Nginx::Socket;

repeat_each(2);
plan tests => repeat_each() * 64;

add_response_body_check(sub {
    my ($block, $body, $req_idx, $repeated_req_idx, $dry_run) = @_;
    my $want = $block->my_length;
    return if !defined $want || $dry_run;
    is_str(length($body) . "\n", $want, $block->name . " - my_length");
});

run_tests();

__DATA__

=== TEST 1: error_code
--- config
    location = /t { return 302 http://localhost/x; }
--- request
GET /t
--- error_code: 302



=== TEST 2: error_code_like
--- config
    location = /t { return 418 "tea"; }
--- request
GET /t
--- error_code_like: ^4\d\d$



=== TEST 3: one test for every header line
--- config
    location = /t {
        add_header X-A 1;
        add_header X-B "two words";
        add_header X-Port $server_port;
        return 200;
    }
--- request
GET /t
--- response_headers
X-A: 1
x-b: two words
X-Port: $ServerPort
! X-C
X-Empty:



=== TEST 4: repeated headers are joined
--- config
    location = /t {
        add_header X-A 1;
        add_header X-A 2;
        return 200;
    }
--- request
GET /t
--- response_headers
X-A: 1, 2



=== TEST 5: response_headers_like is anchored
--- config
    location = /t { add_header X-A v1.22.3; return 200; }
--- request
GET /t
--- response_headers_like
X-A: v\d+\.\d+\.\d+
Server: nginx.*



=== TEST 6: raw headers
--- config
    location = /t { add_header X-A 1; return 200 "x"; }
--- request
GET /t
--- raw_response_headers_like: X-A: 1\r\n
--- raw_response_headers_unlike: X-B
--- response_body chomp
x



=== TEST 7: a body as a pattern
--- config
    location = /t { return 200 "line one\nline two\n"; }
--- request
GET /t
--- response_body_like
^line one
line t.o$



=== TEST 8: a body that must not match
--- config
    location = /t { return 200 "line one\n"; }
--- request
GET /t
--- response_body_unlike: two



=== TEST 9: eval with a regex
--- config
    location = /t { return 200 "abc 123\n"; }
--- request
GET /t
--- response_body eval
qr/^abc \d+$/



=== TEST 10: named filters
--- config
    location = /t { return 200 "Hello"; }
--- request
GET /t
--- response_body_filters
uc lcfirst
--- response_body chop
hELLO



=== TEST 11: filters as code, one list for each request
--- config
    location = /t { return 200 "Hello"; }
--- request eval
["GET /t", "GET /t"]
--- response_body_filters eval
[[sub { uc $_[0] }], [sub { length $_[0] }]]
--- response_body eval
["HELLO", "5"]



=== TEST 12: md5_hex
--- config
    location = /t { return 200 "Hello"; }
--- request
GET /t
--- response_body_filters: md5_hex
--- response_body chomp
8b1a9953c4611296a827abf8c47804d7



=== TEST 13: JSON with its keys sorted
--- config
    location = /t { return 200 '{"b":1,"a":[2,{"d":null,"c":true}]}'; }
--- request
GET /t
--- response_body_json_sort
--- response_body
{"a":[2,{"c":true,"d":null}],"b":1}



=== TEST 14: $ServerPort and $TEST_NGINX_ names in the expected body
--- config
    location = /t { return 200 "$server_port $server_port\n"; }
--- request
GET /t
--- response_body
$ServerPort $TEST_NGINX_SERVER_PORT



=== TEST 15: chunked responses are decoded
--- config
    location = /t {
        sub_filter one two;
        sub_filter_once off;
        sub_filter_types text/plain;
        proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/src;
    }
    location = /src { return 200 "one one\n"; }
--- request
GET /t
--- response_headers
Transfer-Encoding: chunked
! Content-Length
--- response_body
two two



=== TEST 16: chunked responses in a pipeline
--- config
    location = /t {
        sub_filter one two;
        sub_filter_once off;
        sub_filter_types text/plain;
        proxy_pass http://127.0.0.1:$TEST_NGINX_SERVER_PORT/src;
    }
    location = /src { return 200 "one\n"; }
--- pipelined_requests eval
["GET /t", "GET /src", "GET /t"]
--- response_body eval
["two\n", "one\n", "two\n"]
--- response_headers eval
["Transfer-Encoding: chunked", "Content-Length: 4", "Transfer-Encoding: chunked\n! Content-Length"]



=== TEST 17: 304 has no body
--- config
    location = /t { return 304; }
--- request
GET /t
--- error_code: 304
--- response_body chomp



=== TEST 18: a body check of the file's own
--- config
    location = /t { return 200 "12345"; }
--- request
GET /t
--- my_length
5



=== TEST 19: the deprecated eval section
--- config
    location = /t { return 200 "x\n"; }
--- request
GET /t
--- response_body_eval
"x" . "\n"



=== TEST 20: arrays of one element for one request
--- config
    location = /t { return 200 "x\n"; }
--- request eval
["GET /t"]
--- error_code eval
[200]
--- response_body eval
["x\n"]



=== TEST 21: patterns for several requests
--- config
    location = /a { return 200 "aa"; }
    location = /b { add_header X-B 1; return 201 "bb"; }
--- request eval
["GET /a", "GET /b"]
--- error_code_like eval
["^200", qr/^201/]
--- response_body_like eval
["a+", qr/^b+$/]
--- raw_response_headers_like eval
["200 OK", "X-B: 1"]



=== TEST 22: ignore_response leaves only the log tests
--- config
    location = /t { return 500; }
--- request
GET /t
--- error_code: 200
--- response_body: not looked at
--- ignore_response
--- no_error_log
[emerg]
