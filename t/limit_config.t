# limit_config.t - what of llm_limit, llm_quota and llm_max_tokens is refused at
# start, and what a location passes on to the engine.
use Test::Nginx::Socket;
use FindBin;

require "$FindBin::Bin/lib/LLM/Mock.pm";

LLM::Mock::setup();
no_long_string();
no_root_location();

plan tests => 59;
run_tests();

__DATA__

=== TEST 1: a zone needs a rate
--- http_config
    llm_limit_zone $remote_addr zone=a:1m;
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log
invalid number of arguments in "llm_limit_zone" directive
--- request
GET /



=== TEST 2: a rate has a unit
--- http_config
    llm_limit_zone $remote_addr zone=a:1m rate=60000;
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log eval
qr/invalid rate "60000": tokens per time are written like 60000t\/m in .*:\d+/
--- request
GET /



=== TEST 3: a rate is a number above zero
--- http_config
    llm_limit_zone $remote_addr zone=a:1m rate=0t/s;
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log
invalid parameter "0t/s"
--- request
GET /



=== TEST 4: a zone has a size
--- http_config
    llm_limit_zone $remote_addr zone=a rate=1t/s;
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log
invalid parameter "zone=a"
--- request
GET /



=== TEST 5: a zone is not too small
--- http_config
    llm_quota_zone $remote_addr zone=a:1k period=1d;
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log
zone "zone=a:1k" is too small
--- request
GET /



=== TEST 6: a zone is defined once
--- http_config
    llm_quota_zone $remote_addr zone=a:1m period=1d;
    llm_limit_zone $remote_addr zone=a:1m rate=1t/s;
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log
zone "a" is already defined
--- request
GET /



=== TEST 7: a limit names a zone that exists
--- config
    location / { llm_pass mock; llm_limit zone=none; }
--- must_die
--- error_log eval
qr/no "llm_limit_zone" is called "none" in .*nginx.conf:\d+/
--- request
GET /



=== TEST 8: of its kind
--- http_config
    llm_quota_zone $remote_addr zone=a:1m period=1d;
--- config
    location / { llm_pass mock; llm_limit zone=a; }
--- must_die
--- error_log
no "llm_limit_zone" is called "a"
--- request
GET /



=== TEST 9: once
--- http_config
    llm_limit_zone $remote_addr zone=a:1m rate=1t/s;
--- config
    location / { llm_pass mock; llm_limit zone=a; llm_limit zone=a type=prompt; }
--- must_die
--- error_log
duplicate zone "a"
--- request
GET /



=== TEST 10: with a type that exists
--- http_config
    llm_limit_zone $remote_addr zone=a:1m rate=1t/s;
--- config
    location / { llm_pass mock; llm_limit zone=a type=input; }
--- must_die
--- error_log
invalid type "input": it is "total", "prompt" or "completion"
--- request
GET /



=== TEST 11: a burst is a number
--- http_config
    llm_limit_zone $remote_addr zone=a:1m rate=1t/s;
--- config
    location / { llm_pass mock; llm_limit zone=a burst=1k; }
--- must_die
--- error_log
invalid parameter "burst=1k"
--- request
GET /



=== TEST 12: a quota needs a limit
--- http_config
    llm_quota_zone $remote_addr zone=a:1m period=1d;
--- config
    location / { llm_pass mock; llm_quota zone=a; }
--- must_die
--- error_log
"llm_quota" must have a "limit" parameter
--- request
GET /



=== TEST 13: a quota zone needs a period
--- http_config
    llm_quota_zone $remote_addr zone=a:1m;
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log
"llm_quota_zone" must have a "period" parameter
--- request
GET /



=== TEST 14: months of the calendar are 1 to 12
--- http_config
    llm_quota_zone $remote_addr zone=a:1m period=13M;
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log
invalid parameter "13M"
--- request
GET /



=== TEST 15: save without state
--- http_config
    llm_quota_zone $remote_addr zone=a:1m period=1d save=1s;
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log
"save" has no effect without "state"
--- request
GET /



=== TEST 16: two zones with one state file
--- http_config
    llm_quota_zone $remote_addr zone=a:1m period=1d state=same;
    llm_quota_zone $remote_addr zone=b:1m period=1h state=same;
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log
zone "a" already has the state file
--- request
GET /



=== TEST 17: llm_limit_expect
--- config
    location / { llm_pass mock; llm_limit_expect all; }
--- must_die
--- error_log
"llm_limit_expect" directive must be a number of tokens or "max"
--- request
GET /



=== TEST 18: llm_max_tokens is not negative
--- config
    location / { llm_pass mock; llm_max_tokens -5; }
--- must_die
--- error_log
"llm_max_tokens" must be a number between 0 and 2147483647
--- request
GET /



=== TEST 19: llm_priority is a number
--- config
    location / { llm_pass mock; llm_priority high; }
--- must_die
--- error_log
"llm_priority" must be a number between -2147483647 and 2147483647
--- request
GET /



=== TEST 20: nine limits are too many
--- http_config eval
join '', map { "llm_limit_zone \$remote_addr zone=z$_:1m rate=1t/s;\n" } 1 .. 9
--- config eval
"location / { llm_pass mock; " . join('', map { "llm_limit zone=z$_; " } 1 .. 9) . "}"
--- must_die
--- error_log eval
qr/more than 8 limits and quotas in .*nginx.conf:\d+/
--- request
GET /



=== TEST 21: what a location asks of the engine arrives there
--- config
    location / {
        llm_pass mock; llm_max_tokens 77; llm_cache_salt tenant-$arg_t;
        llm_priority -3; llm_deadline 60s;
    }
--- request
POST /v1/chat/completions?t=5
{"messages":[],"mock":{"echo":true}}
--- more_headers
Content-Type: application/json
--- response_body_like: "flags":0,"priority":-3,"max_tokens":77,"deadline_ms":(?:60000|59\d\d\d),.*"cache_salt":"tenant-5"
--- no_error_log
[error]
[alert]



=== TEST 22: by a variable, and an empty one is no value
--- config
    location / { llm_pass mock; llm_max_tokens $arg_m; llm_priority $arg_p; llm_cache_salt $arg_s; }
--- pipelined_requests eval
[map { "POST /v1/chat/completions?$_\n" . '{"messages":[],"mock":{"echo":true}}' } 'm=9&p=4&s=a', '']
--- more_headers
Content-Type: application/json
--- response_body_like eval
[qr/"priority":4,"max_tokens":9,"deadline_ms":0,.*"cache_salt":"a"/, qr/"priority":0,"max_tokens":0,"deadline_ms":0,.*"cache_salt":""/]



=== TEST 23: a variable that is no number is an error
--- config
    location / { llm_pass mock; llm_max_tokens $arg_m; }
--- request
POST /v1/chat/completions?m=many
{"messages":[],"mock":{"echo":true}}
--- more_headers
Content-Type: application/json
--- error_code: 500
--- error_log
invalid value "many" of "llm_max_tokens"



=== TEST 24: an inner location inherits limits and may undo a cap
--- http_config
    llm_limit_zone $remote_addr zone=in:1m rate=1t/h;
--- config
    llm_limit zone=in burst=100;
    llm_max_tokens 10;
    location / { llm_pass mock; }
    location /own/ { llm_pass mock; llm_limit zone=in burst=50; llm_max_tokens 0; }
--- pipelined_requests eval
[map { "POST $_/v1/chat/completions\n" . '{"messages":[],"max_tokens":40,"mock":{"tokens":0,"prompt_tokens":1}}' } '', '/own']
--- more_headers
Content-Type: application/json
--- response_headers eval
["x-ratelimit-remaining-tokens: 89", "x-ratelimit-remaining-tokens: 8"]



=== TEST 25: the cap applies where max_tokens is absent or greater
--- config
    location / { llm_pass mock; llm_max_tokens 2; }
--- request
POST /v1/chat/completions
{"messages":[],"max_tokens":4,"mock":{"tokens":4}}
--- more_headers
Content-Type: application/json
--- response_body_like: tok0 tok1 ".*"finish_reason":"length"
--- no_error_log
[error]



=== TEST 26: a zone called as that of llm_status is no zone of limits
--- http_config
    llm_limit_zone $remote_addr zone=llm_status:512k rate=1t/s;
--- config
    location / { llm_pass mock; llm_limit zone=llm_status; }
    location = /llm { llm_status; }
--- must_die
--- error_log
zone "llm_status" is already defined
