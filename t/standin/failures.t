# failures.t - an expectation that is not met is reported, whichever it is.
#
# Each case is a block whose last words are wrong.  It runs in a process of its
# own; the output must hold a "not ok" (or "Bail out!") with the given words.
# The exit code says nothing: a failure outside the plan is in the output only.
use strict;
use warnings;

use File::Temp ();
use IO::Socket::INET ();
use Test::More;

my ($lib) = grep { -f "$_/Test/Nginx/Socket.pm" } map { ref $_ ? () : $_ } @INC;
my $dir = File::Temp->newdir;

# A server that answers after 600 ms, for the timeouts.
my $listener = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp',
    Listen => 8, ReuseAddr => 1) or die "listen: $!";
my $port = $listener->sockport;
my $pid = fork // die "fork: $!";
if ($pid == 0) {
    alarm 120;
    while (1) {
        my $client = $listener->accept or next;
        select undef, undef, undef, 0.6;
        print {$client} "HTTP/1.0 200 OK\r\n\r\nlate\n";
    }
}
close $listener;

# Returns the output of a test file with this plan and block.
sub run_block {
    my ($plan, $block) = @_;
    my $file = "$dir/case.t";
    open my $out, '>', $file or die "$file: $!";
    print {$out} "use Test::Nginx::Socket tests => $plan;\nrun_tests();\n",
        "__DATA__\n\n=== TEST 1: case\n$block\n";
    close $out;
    return qx("$^X" "-I$lib" "$file" 2>&1);
}

my $config = "--- config\n    location = /t { add_header X-A 1; return 200 \"ok\\n\"; }\n";
my $get = "--- request\nGET /t\n";
my @cases = (
    ['a wrong status', 1, $config . $get . '--- error_code: 404',
        qr/not ok 1 .*status code ok/],
    ['a wrong status pattern', 1, $config . $get . '--- error_code_like: ^4',
        qr/not ok 1 .*status code ok/],
    ['a wrong body', 2, $config . $get . "--- response_body\nno",
        qr/not ok 2 .*response_body/],
    ['a body that does not match', 2, $config . $get . '--- response_body_like: no',
        qr/not ok 2 .*response_body_like/],
    ['a body that matches', 2, $config . $get . '--- response_body_unlike: ok',
        qr/not ok 2 .*response_body_unlike/],
    ['a wrong header', 2, $config . $get . '--- response_headers: X-A: 2',
        qr/not ok 2 .*header X-A/],
    ['a missing header', 2, $config . $get . '--- response_headers: X-B: 1',
        qr/not ok 2 .*header X-B/],
    ['an unwanted header', 2, $config . $get . '--- response_headers: ! X-A',
        qr/not ok 2 .*header X-A not present/],
    ['a header that does not match to its end', 2,
        $config . $get . '--- response_headers_like: Server: ngi',
        qr/not ok 2 .*header Server like/],
    ['raw headers that do not match', 2, $config . $get . '--- raw_response_headers_like: X-B',
        qr/not ok 2 .*raw/],
    ['a line that is not in the log', 2, $config . $get . '--- error_log: no such line',
        qr/not ok 2 .*no such line/],
    ['a line that is in the log', 2, $config . $get . '--- no_error_log: http request line',
        qr/not ok 2 .*http request line/],
    ['a line that is not in the access log', 2, $config . $get . '--- access_log: /u',
        qr/not ok 2 .*access/],
    ['a line that is in the access log', 2, $config . $get . '--- no_access_log: /t',
        qr/not ok 2 .*access/],
    ['collected lines that differ', 2,
        $config . $get . "--- grep_error_log: http request line\n--- grep_error_log_out\nx",
        qr/not ok 2 .*grep_error_log_out/],
    ['nginx starts though it must not', 1, $config . '--- must_die',
        qr/not ok 1 .*die/],
    ['nginx dies with another code', 1,
        "--- config\n    nonsense;\n--- suppress_stderr\n--- must_die: 3", qr/not ok 1 .*exit code/],
    ['a timeout', 1,
        "--- config\n    location = /t { proxy_pass http://127.0.0.1:$port; }\n"
        . $get . '--- timeout: 0.2', qr/not ok 1 .*client socket timed out/],
    ['a broken chunk', 1,
        "--- config\n    location = /t { chunked_transfer_encoding off;"
        . " add_header Transfer-Encoding chunked; return 200 zzz; }\n" . $get,
        qr/not ok 1 .*chunk/],
    ['an unknown name', 1, "--- config\n    location = /t { return 200 \$TEST_NGINX_NO_SUCH; }\n"
        . $get, qr/Bail out!.*TEST_NGINX_NO_SUCH/],
    ['a scalar where an array is needed', 3,
        $config . "--- request eval\n['GET /t', 'GET /t']\n--- error_code: 200\n",
        qr/Bail out!.*array/],
    ['a missing request', 1, $config, qr/Bail out!|not ok/],
);

plan tests => scalar @cases;
for my $case (@cases) {
    my ($what, $plan, $block, $want) = @$case;
    like(run_block($plan, $block), $want, "$what is reported");
}

END {
    my $status = $?;
    kill KILL => $pid if $pid;
    $? = $status;
}
