# native_key.t - $llm_key and $llm_key_id: where a key is found, how it is named.
#
# Ids are compared with Perl's Digest::SHA for keys of random length.
use Test::Nginx::Socket;
use Digest::SHA qw(sha256_hex hmac_sha256_hex);
use FindBin;

require "$FindBin::Bin/lib/LLM/Mock.pm";

our $seed = $ENV{TEST_LLM_SEED} || time ^ $$;
srand $seed;
Test::More::diag("seed $seed");

# Around the block's and the padding's limits, then anything.
our @keys = map { join '', map { ('a' .. 'z', 0 .. 9, '-', '_')[rand 38] } 1 .. $_ }
    1, 2, 55, 56, 57, 63, 64, 65, 119, 120, 121, 128, map { 1 + int rand 700 } 1 .. 12;
our $long_salt = 's' x 65;

LLM::Mock::setup();
no_long_string();
no_root_location();

plan tests => 159;
run_tests();

__DATA__

=== TEST 1: the key of a bearer token, whatever the scheme's case, trimmed
--- config
    location / { return 200 "[$llm_key]"; }
--- pipelined_requests eval
[("GET /") x 7]
--- more_headers eval
["Authorization: Bearer sk-1", "Authorization: bearer sk-2", "authorization: BEARER sk-3",
 "Authorization: Bearer   sk-4  ", "Authorization: Bearer\tsk-5", "Authorization: Bearer a b",
 "Authorization: Bearer ="]
--- response_body eval
["[sk-1]", "[sk-2]", "[sk-3]", "[sk-4]", "[sk-5]", "[a b]", "[=]"]



=== TEST 2: no key: other schemes, nothing behind the scheme, no header
--- config
    location / { return 200 "[$llm_key][$llm_key_id]"; }
--- pipelined_requests eval
[("GET /") x 8]
--- more_headers eval
["Authorization: Basic c2stMTo=", "Authorization: Bearer", "Authorization: Bearer  ",
 "Authorization: Bearersk-1", "Authorization: sk-1", "X-Api-Key:", "Api-Key:  ", "X-Key: sk-1"]
--- response_body eval
[("[][]") x 8]



=== TEST 3: the headers of Anthropic's and Azure's clients; a bearer token goes first
--- config
    location / { return 200 "[$llm_key]"; }
--- pipelined_requests eval
[("GET /") x 6]
--- more_headers eval
["x-api-key: sk-1", "api-key: sk-2", "api-key: sk-3\nx-api-key: sk-4",
 "x-api-key: sk-5\nAuthorization: Bearer sk-6", "x-api-key: sk-7\nAuthorization: Basic YTpi",
 "X-API-Key: sk-8\nAuthorization: Bearer "]
--- response_body eval
["[sk-1]", "[sk-2]", "[sk-4]", "[sk-6]", "[sk-7]", "[sk-8]"]



=== TEST 4: the id is SHA-256's beginning
--- http_config
    large_client_header_buffers 8 8k;
--- config
    location / { return 200 "$llm_key_id"; }
--- pipelined_requests eval
[("GET /") x @main::keys]
--- more_headers eval
[map { "Authorization: Bearer $_" } @main::keys]
--- response_body eval
[map { substr Digest::SHA::sha256_hex($_), 0, 16 } @main::keys]



=== TEST 5: with a salt it is HMAC-SHA-256's
--- http_config
    llm_key_salt "pepper and salt";
--- config
    location / { return 200 "$llm_key_id"; }
--- pipelined_requests eval
[("GET /") x @main::keys]
--- more_headers eval
[map { "x-api-key: $_" } @main::keys]
--- response_body eval
[map { substr Digest::SHA::hmac_sha256_hex($_, 'pepper and salt'), 0, 16 } @main::keys]



=== TEST 6: also with a salt longer than a block
--- http_config eval
"llm_key_salt $main::long_salt;"
--- config
    location / { return 200 "$llm_key_id"; }
--- request
GET /
--- more_headers
api-key: sk-1
--- response_body eval
substr Digest::SHA::hmac_sha256_hex('sk-1', $main::long_salt), 0, 16



=== TEST 7: in a map, in server-level rewrites, in a log; the log has the id only
--- http_config
    map $llm_key $who { default nobody; sk-1 alice; }
    log_format who '$who $llm_key_id $status';
--- config
    access_log logs/access.log who;
    if ($who = nobody) { return 401; }
    location / { llm_pass mock; }
--- request
GET /v1/models
--- more_headers
Authorization: Bearer sk-1
--- response_body_like: "object":"list"
--- access_log eval
"alice " . substr(Digest::SHA::sha256_hex('sk-1'), 0, 16) . " 200"
--- no_access_log
sk-1



=== TEST 8: the engine learns the id, never the key
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"mock":{"echo":true}}
--- more_headers
Content-Type: application/json
Authorization: Bearer sk-1
--- response_body_like eval
my $id = substr Digest::SHA::sha256_hex('sk-1'), 0, 16; qr/\A(?!.*sk-1).*"key_id":"$id"/s



=== TEST 9: and nothing without a key
--- config
    location / { llm_pass mock; }
--- request
POST /v1/chat/completions
{"mock":{"echo":true}}
--- more_headers
Content-Type: application/json
--- response_body_like: "key_id":(?:""|null)



=== TEST 10: a key is the same in the subrequest of auth_request
--- config
    location / { auth_request /check; llm_pass mock; }
    location = /check { internal; if ($llm_key != sk-1) { return 401; } return 204; }
--- pipelined_requests eval
["GET /v1/models", "GET /v1/models"]
--- more_headers eval
["Authorization: Bearer sk-1", "Authorization: Bearer sk-2"]
--- error_code eval
[200, 401]
--- response_body_like eval
['"object":"list"', '"message":"The API key is not valid\.","type":"authentication_error","param":null,"code":"invalid_api_key"']



=== TEST 11: a request that cannot be read has no key, and its log line none
--- http_config
    log_format bad 'key=[$llm_key $llm_key_id] $status';
    access_log logs/access.log bad;
--- config
    llm_json_errors on;
    location / { llm_pass mock; }
--- raw_request eval
"GET\r\n\r\n"
--- error_code: 400
--- response_body_like: "code":"bad_request"
--- access_log
key=[- -] 400



=== TEST 12: an empty salt
--- http_config
    llm_key_salt "";
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log
"llm_key_salt" directive must not be empty



=== TEST 13: two salts
--- http_config
    llm_key_salt a;
    llm_key_salt b;
--- config
    location / { llm_pass mock; }
--- must_die
--- error_log
"llm_key_salt" directive is duplicate
