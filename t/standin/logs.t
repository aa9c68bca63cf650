# logs.t - expectations about error.log and access.log, one test for each pattern.
use Test::Nginx::Socket;

repeat_each(2);
no_shuffle();      # TEST 11 is checked when the next block starts nginx, so none that is skipped may follow
plan tests => repeat_each() * 37 + 3;
run_tests();

__DATA__

=== TEST 1: literal substrings, one a line
--- config
    location = /t { rewrite ^ /u; }
    location = /u { rewrite_log on; return 200 "(x) \n"; }
--- request
GET /t
--- error_log
http script regex: "^"
test location: "u"
--- no_error_log
[error]
(no such line)



=== TEST 2: regexes
--- config
    location = /t { return 404; }
--- request
GET /t
--- error_code: 404
--- error_log eval
[qr/test location: "\w"/, "finalize request", qr/special response: 404/]
--- no_error_log eval
qr/\[(?:error|alert)\]/



=== TEST 3: a missing file is an error
--- config
    location /f { root html; }
--- request
GET /f
--- error_code: 404
--- error_log eval
qr/\[error\] .* open\(\) ".*\/f" failed/



=== TEST 4: patterns are looked for after every request of several
--- config
    location = /a { return 200 "a"; }
--- request eval
["GET /a", "GET /a"]
--- error_log
test location: "a"
--- no_error_log
[error]



=== TEST 5: and after every response of a pipeline
--- config
    location = /a { return 200 "a"; }
--- pipelined_requests eval
["GET /a", "GET /a"]
--- error_code eval
[200, 200]
--- no_error_log
[error]
[crit]



=== TEST 6: access_log
--- config
    location = /a { return 204; }
    location = /b { return 200; }
--- request
GET /a?x=1
--- error_code: 204
--- access_log eval
["GET /a?x=1 HTTP/1.1", qr/" 204 0 "/]
--- no_access_log
GET /b



=== TEST 7: matches collected and compared
--- config
    location = /t { return 404; }
--- request
GET /t
--- error_code: 404
--- grep_error_log eval
qr/special response: \d+/
--- grep_error_log_out
special response: 404



=== TEST 8: a literal to collect, one expectation for each repetition
--- config
    location = /t { return 404; }
--- request
GET /t
--- error_code: 404
--- grep_error_log chop
special response: 404
--- grep_error_log_out eval
["special response: 404\n", "special response: 404\n"]



=== TEST 9: log_level of one block
--- config
    location = /t { return 200; }
--- request
GET /t
--- skip_eval: 2: $Test::Nginx::Util::UseHup # old workers still write
--- log_level: error
--- no_error_log
[debug]



=== TEST 10: wait before the logs are read
--- config
    location = /t { return 200; }
--- request
GET /t
--- wait: 0.1
--- error_log
close http connection



=== TEST 11: what nginx writes while it stops
--- config
    location = /t { return 200; }
--- request
GET /t
--- shutdown_error_log eval
["signal 3 (SIGQUIT) received", qr/exit$/]
--- no_shutdown_error_log
[alert]
