# reload.t - TEST_NGINX_USE_HUP: one nginx for all blocks, and a reload that fails.
use Test::Nginx::Socket;

use_hup();
no_shuffle();
repeat_each(1);
our $Pid;
plan tests => 11;
run_tests();

__DATA__

=== TEST 1: the first configuration
--- config
    location = /t { return 200 "one $pid\n"; }
--- request
GET /t
--- response_body_like: ^one
--- no_error_log
[emerg]



=== TEST 2: the second one is served by new workers
--- init
open my $in, '<', $Test::Nginx::Util::PidFile;
chomp($main::Pid = <$in>);
--- config
    location = /t { return 200 "two\n"; }
--- request
GET /t
--- response_body
two
--- error_log
gracefully shutting down



=== TEST 3: a reload that fails leaves the old configuration
--- config
    location = /t { no_such_directive; }
--- reload_fails
--- request
GET /t
--- response_body
two
--- error_log
unknown directive "no_such_directive"



=== TEST 4: nginx is still the same process
--- config
    location = /t { alias $TEST_NGINX_SERVER_ROOT/html/pid.txt; }
--- init
open my $in, '<', $Test::Nginx::Util::PidFile;
chomp(my $pid = <$in>);
open my $out, '>', "$Test::Nginx::Util::HtmlDir/pid.txt";
print $out $pid == $main::Pid ? "same\n" : "other\n";
close $out;
--- request
GET /t
--- response_body
same
