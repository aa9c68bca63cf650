# status.t - llm_status: formats, what is counted as what, and nginx -t.
#
# One worker and one engine; t/status_workers.t has several of each.
use Test::Nginx::Socket;
use FindBin;

require "$FindBin::Bin/lib/LLM/Mock.pm";

LLM::Mock::setup();
no_long_string();
no_root_location();
repeat_each(1);

# The body of a chat request.
sub chat {
    my ($mock, $stream) = @_;
    return sprintf '{"model":"mock","stream":%s,"messages":[{"role":"user","content":"x"}],"mock":{%s}}',
        $stream // 'false', $mock // '';
}

# Two requests, one after the other: the second sees what the first was.
sub then_status {
    my ($first, $format) = @_;
    return [$first, "GET /llm?format=" . ($format // 'prometheus')];
}

plan tests => 94;
run_tests();

__DATA__

=== TEST 1: without an argument and Accept: Prometheus
--- config
    location = /llm { llm_status; }
--- request
GET /llm
--- response_headers
Content-Type: text/plain; version=0.0.4; charset=utf-8
Cache-Control: no-store
Vary: Accept
--- response_body_like eval
qr~(?s)\A# HELP nginx_llm_build_info .*nginx_llm_engine_up\{engine="mock"\} 1\n~



=== TEST 2: what Prometheus itself sends as Accept
--- config
    location = /llm { llm_status; }
--- more_headers
Accept: application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2
--- request
GET /llm
--- response_headers
Content-Type: text/plain; version=0.0.4; charset=utf-8



=== TEST 3: a browser gets the page
--- config
    location = /llm { llm_status; }
--- more_headers
Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8
--- request
GET /llm
--- response_headers
Content-Type: text/html; charset=utf-8
--- response_body_like eval
qr~(?s)\A<!DOCTYPE html>.*</html>\n\z~



=== TEST 4: a program that wants JSON
--- config
    location = /llm { llm_status; }
--- more_headers
Accept: application/json
--- request
GET /llm
--- response_headers
Content-Type: application/json
--- response_body_like eval
qr~(?s)\A\{"time":[0-9.]+,.*"engines":\[\n\{"name":"mock","state":"ready".*"zones":\[\]\}\n\z~



=== TEST 5: ?format= stands above Accept
--- config
    location = /llm { llm_status; }
--- more_headers
Accept: text/html
--- request
GET /llm?format=json
--- response_headers
Content-Type: application/json



=== TEST 6: a format that does not exist
--- config
    location = /llm { llm_status; }
--- request
GET /llm?format=yaml
--- error_code: 400



=== TEST 7: an argument of the directive decides
--- config
    location = /llm { llm_status json; }
--- more_headers
Accept: text/html
--- request
GET /llm?format=prometheus
--- response_headers
Content-Type: application/json



=== TEST 8: the page may be asked for its JSON
--- config
    location = /llm { llm_status html; }
--- request eval
["GET /llm", "GET /llm?format=json", "GET /llm?format=prometheus"]
--- error_code eval
[200, 200, 400]
--- response_headers eval
["Content-Type: text/html; charset=utf-8", "Content-Type: application/json", "Content-Type: text/html"]



=== TEST 9: HEAD has the length and no body
--- config
    location = /llm { llm_status html; }
--- request
HEAD /llm
--- response_headers_like
Content-Length: \d{5}
--- response_body:



=== TEST 10: only GET and HEAD
--- config
    location = /llm { llm_status; }
--- request
POST /llm
--- error_code: 405



=== TEST 11: an answer is counted with its model, status, end and tokens
--- config
    location = /llm { llm_status; }
    location / { llm_pass mock; }
--- more_headers
Content-Type: application/json
--- request eval
main::then_status("POST /v1/chat/completions\n" . main::chat('"tokens":7,"prompt_tokens":11,"cached_tokens":4'))
--- response_body_like eval
[qr/tok6/, qr/(?s)nginx_llm_requests_total\{engine="mock",model="mock",status="200",finish_reason="stop"\} 1\n.*
nginx_llm_prompt_tokens_total\{engine="mock",model="mock"\} 11\n.*
nginx_llm_cached_tokens_total\{engine="mock",model="mock"\} 4\n.*
nginx_llm_completion_tokens_total\{engine="mock",model="mock"\} 7\n.*
nginx_llm_request_prompt_tokens_bucket\{engine="mock",model="mock",le="10"\} 0
nginx_llm_request_prompt_tokens_bucket\{engine="mock",model="mock",le="20"\} 1/]



=== TEST 12: a stream is counted like that, too
--- config
    location = /llm { llm_status; }
    location / { llm_pass mock; }
--- more_headers
Content-Type: application/json
--- request eval
main::then_status("POST /v1/chat/completions\n" . main::chat('"tokens":3,"finish":"length"', 'true'))
--- response_body_like eval
[qr/\[DONE\]/, qr/requests_total\{engine="mock",model="mock",status="200",finish_reason="length"\} 1\n/]



=== TEST 13: a plain answer has no model and no tokens
--- config
    location = /llm { llm_status; }
    location / { llm_pass mock; }
--- request eval
main::then_status("GET /v1/models")
--- response_body_like eval
[qr/"object"/, qr/(?s)requests_total\{engine="mock",model="",status="200",finish_reason="none"\} 1\n(?!.*completion_tokens_total\{)/]



=== TEST 14: refused by the module, before an engine is chosen
--- config
    location = /llm { llm_status; }
    location / { llm_pass mock; }
--- request eval
main::then_status("GET /v1/poems")
--- error_code eval
[404, 200]
--- response_body_like eval
[qr/not_found/, qr/(?s)request_errors_total\{engine="",reason="not_found"\} 1\n.*requests_total\{engine="",model="",status="404",finish_reason="none"\} 1\n/]



=== TEST 15: refused by nginx in its access phase
--- config
    location = /llm { llm_status; }
    location / { deny all; llm_pass mock; }
--- request eval
main::then_status("GET /v1/models")
--- error_code eval
[403, 200]
--- response_body_like eval
[qr/forbidden/, qr/request_errors_total\{engine="",reason="forbidden"\} 1\n/]



=== TEST 16: refused by nginx while the body is read
--- config
    location = /llm { llm_status; }
    location / { client_max_body_size 10; llm_pass mock; }
--- more_headers
Content-Type: application/json
--- request eval
main::then_status("POST /v1/chat/completions\n" . main::chat())
--- error_code eval
[413, 200]
--- response_body_like eval
[qr/request_too_large/, qr/request_errors_total\{engine="",reason="request_too_large"\} 1\n/]



=== TEST 17: what the engine refuses is its status, not an error of nginx
--- config
    location = /llm { llm_status; }
    location / { llm_pass mock; }
--- more_headers
Content-Type: application/json
--- request eval
main::then_status("POST /v1/chat/completions\n" . main::chat('"refuse":true'))
--- error_code eval
[503, 200]
--- response_body_like eval
[qr/overloaded/, qr/(?s)request_errors_total counter\n# HELP.*requests_total\{engine="mock",model="",status="503",finish_reason="none"\} 1\n/]



=== TEST 18: an answer that error_page replaces counts once, with what it was
--- config
    location = /llm { llm_status; }
    location / { error_page 503 =200 @other; llm_pass mock; }
    location @other { return 200 "other\n"; }
--- more_headers
Content-Type: application/json
--- request eval
main::then_status("POST /v1/chat/completions\n" . main::chat('"refuse":true'))
--- error_code eval
[200, 200]
--- response_body_like eval
[qr/\Aother/, qr/(?s)TYPE nginx_llm_requests_total counter\nnginx_llm_requests_total\{engine="mock",model="",status="503",finish_reason="none"\} 1\n# HELP/]



=== TEST 19: an engine that is lost in the middle of a stream
--- config
    location = /llm { llm_status; }
    location / { llm_pass mock; }
--- more_headers
Content-Type: application/json
--- request eval
main::then_status("POST /v1/chat/completions\n" . main::chat('"tokens":4,"close":true', 'true'))
--- error_code eval
[503, 200]
--- response_body_like eval
[qr/engine_lost/, qr/(?s)session_losses_total\{engine="mock"\} 1\n.*request_errors_total\{engine="mock",reason="engine_lost"\} 1\n.*requests_total\{engine="mock",model="",status="503",finish_reason="engine_lost"\} 1\n/]



=== TEST 20: HEAD, and a subrequest
--- config
    location = /llm { llm_status; }
    location = /page { ssi on; ssi_types *; default_type text/plain; return 200 "[<!--# include virtual=\"/v1/models\" -->]"; }
    location / { llm_pass mock; }
--- request eval
["HEAD /v1/models", "GET /page", "GET /llm?format=prometheus"]
--- response_body_like eval
[qr/\A\z/, qr/\A\[\{.*\}\s*\]\z/s, qr/requests_total\{engine="mock",model="",status="200",finish_reason="none"\} 2\n/]



=== TEST 21: names are escaped for Prometheus and for JSON
--- config
    location = /llm { llm_status; }
    location / { llm_pass mock; }
--- more_headers
Content-Type: application/json
--- request eval
["POST /v1/chat/completions\n" . '{"model":"a\"b\\\\c<d>","messages":[{"role":"user","content":"x"}]}',
 "GET /llm?format=prometheus", "GET /llm?format=json"]
--- response_body_like eval
[qr/tok0/, qr/requests_total\{engine="mock",model="a\\"b\\\\c<d>",status="200"/, qr/"model":"a\\"b\\\\c<d>"/]



=== TEST 22: two requests of one connection are two
--- config
    location = /llm { llm_status; }
    location / { llm_pass mock; }
--- pipelined_requests eval
["GET /v1/models", "GET /v1/models", "GET /llm"]
--- response_body_like eval
[qr/"object"/, qr/"object"/, qr/status="200",finish_reason="none"\} 2\n/]



=== TEST 23: nginx -t: an unknown format
--- config
    location = /llm { llm_status xml; }
--- must_die
--- error_log eval
qr/\[emerg\].* "llm_status" takes "prometheus", "json" or "html", not "xml" in \S+:\d+/



=== TEST 24: nginx -t: two handlers in one location
--- config
    location = /llm { llm_pass mock; llm_status; }
--- must_die
--- error_log eval
qr/\[emerg\].* "llm_status" directive is duplicate in \S+:\d+/



=== TEST 25: nginx -t: a zone that is too small
--- http_config
    llm_status_zone 8k;
--- config
    location = /llm { llm_status; }
--- must_die
--- error_log eval
qr/\[emerg\].* "llm_status_zone" takes a size of at least 256k, not "8k" in \S+:\d+/



=== TEST 26: zones of limits and quotas show their memory
--- http_config
    llm_limit_zone $remote_addr zone=tok:1m rate=1000t/s;
    llm_quota_zone $remote_addr zone=day:256k period=1d;
--- config
    location = /llm { llm_status; }
--- request eval
["GET /llm", "GET /llm?format=json"]
--- response_body_like eval
[qr/(?s)TYPE nginx_llm_zone_size_bytes gauge\n.*zone_size_bytes\{kind="limit",zone="tok"\} 1048576\n.*zone_size_bytes\{kind="quota",zone="day"\} 262144\n.*zone_free_bytes\{kind="limit",zone="tok"\} \d{6,7}\n/,
 qr/"zones":\[\{"kind":"limit","zone":"tok","size_bytes":1048576,"free_bytes":\d+\},\{"kind":"quota"/]



=== TEST 27: the smallest zone works
--- http_config
    llm_status_zone 256k;
--- config
    location = /llm { llm_status; }
--- request
GET /llm
--- response_body_like
nginx_llm_workers 1
