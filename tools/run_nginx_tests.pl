#!/usr/bin/perl
# run_nginx_tests.pl - runs .t files with the stand-in for Test::Nginx and adds up.
#
#     tools/run_nginx_tests.pl [--hup] [--lib DIR] FILE.t ...
#
# --hup reloads one nginx between blocks instead of starting a new one; --lib
# takes the library from elsewhere, e.g. openresty's own.  BUILD and CONFIG say
# which build is tested.  Every file gets a port and a server root that no other
# program has, and a time limit.  The last line is "N passed, N failed".
# Files find the programs under test in the environment:
#     TEST_NGINX_LOAD_MODULES   ngx_http_llm_module.so, loaded into every nginx
#     TEST_NGINX_ENGINE, TEST_NGINX_MOCK_ENGINE, TEST_NGINX_TOOL
#     TEST_NGINX_ROOT           the root of the repository
#     TEST_NGINX_RUN_DIR        an empty directory for sockets and logs
use strict;
use warnings;

use Cwd qw(abs_path);
use File::Path qw(make_path remove_tree);
use FindBin;
use Getopt::Long;
use IO::Socket::INET;
use TAP::Parser;

use constant FILE_SECONDS => $ENV{TEST_NGINX_FILE_SECONDS} || 120;

chdir "$FindBin::Bin/.." or die "chdir: $!\n";
my ($hup, $lib) = (0, 't/lib');
GetOptions('hup' => \$hup, 'lib=s' => \$lib) or exit 2;
my @files = map { glob } @ARGV;
@files = grep { -f } @files;
die "run_nginx_tests: no such file: @ARGV\n" if !@files;

my $out = join '/', $ENV{BUILD} || 'build', $ENV{CONFIG} || 'release';
make_path($out);
$out = abs_path($out);
my $module = "$out/ngx_http_llm_module.so";
$ENV{TEST_NGINX_ROOT} = abs_path('.');
$ENV{TEST_NGINX_ENGINE} = "$out/nginx-llm-engine";
$ENV{TEST_NGINX_MOCK_ENGINE} = "$out/nginx-llm-mock-engine";
$ENV{TEST_NGINX_TOOL} = "$out/nginx-llm-tool";
$ENV{TEST_NGINX_USE_HUP} = 1 if $hup;
$ENV{TEST_NGINX_RUN_DIR} = "$out/t-run";
$ENV{TEST_NGINX_SERVROOT} = "$out/servroot";
$ENV{PATH} .= ':/usr/sbin';

# A port that is free now; nginx itself retries for a while if it is lost.
sub free_port {
    my $socket = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp',
        Listen => 1) or die "no free port: $!\n";
    return $socket->sockport;
}

# Runs one file, shows what is not as it should be; returns (passed, failed).
sub run_file {
    my ($file) = @_;
    my $parser = TAP::Parser->new({
        exec => ['timeout', '-k', '10', FILE_SECONDS, $^X, "-I$lib", $file],
        merge => 1,
    });
    my $speak = 0;               # a failure's diagnostics follow it
    while (my $result = $parser->next) {
        $speak = !$result->is_ok if $result->is_test;
        print $result->as_string, "\n"
            if $speak || $ENV{TEST_NGINX_VERBOSE} || $result->is_bailout
            || $result->as_string =~ /^(?:WARNING|nginx: )/
            || $file !~ m{/standin/} && $result->as_string =~ /# SKIP/i;
    }
    my ($ok, $bad) = (scalar $parser->passed, scalar $parser->failed);
    my @problems = $parser->parse_errors;
    push @problems, 'ended with code ' . $parser->exit if !$bad && $parser->exit;
    print "$file: $_\n" for @problems;
    $bad = 1 if !$bad && @problems;
    return ($ok, $bad);
}

my ($passed, $failed) = (0, 0);
for my $file (@files) {
    remove_tree($ENV{TEST_NGINX_RUN_DIR}, $ENV{TEST_NGINX_SERVROOT});
    make_path($ENV{TEST_NGINX_RUN_DIR});
    local $ENV{TEST_NGINX_PORT} = free_port();
    # The stand-in's own tests need no module, so they hold without one.
    local $ENV{TEST_NGINX_LOAD_MODULES} = $file =~ m{/standin/} ? '' : $module;
    my ($ok, $bad) = run_file($file);
    $passed += $ok;
    $failed += $bad;
    printf "%s - %s (%d)\n", $bad ? 'not ok' : 'ok', $file, $ok + $bad;
}
remove_tree($ENV{TEST_NGINX_RUN_DIR}, $ENV{TEST_NGINX_SERVROOT});
print "$passed passed, $failed failed\n";
exit($failed ? 1 : 0);
