# Mock.pm - one mock engine for a whole .t file in Test::Nginx format.
#
#     use Test::Nginx::Socket;
#     require "$FindBin::Bin/lib/LLM/Mock.pm";
#     LLM::Mock::setup();         # before run_tests()
#
# Starts nginx-llm-mock-engine with a socket of its own and puts
# "llm_engine mock { server unix:...; }" into every block's http_config.  It is
# found by path, so that openresty's library can be used for the rest.
package LLM::Mock;

use strict;
use warnings;

use IO::Socket::UNIX;
use Time::HiRes qw(sleep);

my ($pid, $dir, $owner);

sub setup {
    my (@options) = @_;
    $dir = ($ENV{TEST_NGINX_RUN_DIR} || '/tmp') . "/mock-$$";
    mkdir $dir;
    my $binary = $ENV{TEST_NGINX_MOCK_ENGINE}
        || "$ENV{TEST_NGINX_ROOT}/build/release/nginx-llm-mock-engine";
    $owner = $$;
    $pid = fork // die "fork: $!";
    if ($pid == 0) {
        open STDIN, '<', '/dev/null';
        open STDERR, '>>', "$dir/mock.log";
        open STDOUT, '>&', \*STDERR;
        exec $binary, '--socket', "$dir/mock.sock", @options;
        exit 127;
    }
    for (1 .. 250) {
        last if -S "$dir/mock.sock";
        sleep 0.02;
    }
    -S "$dir/mock.sock" or die "the mock engine does not start, see $dir/mock.log\n";
    # The worker of nginx may be another user than the one who runs the test.
    chmod 0777, "$dir/mock.sock";
    $ENV{TEST_NGINX_MOCK_SOCKET} = "$dir/mock.sock";
    Test::Nginx::Socket::add_block_preprocessor(sub {
        my ($block) = @_;
        my $http = $block->http_config // '';
        $block->set_value('http_config',
            "llm_engine mock { server unix:$dir/mock.sock; }\n$http");
    });
    return;
}

END {
    my $rc = $?;
    if ($pid && $owner == $$) {
        kill 'TERM', $pid;
        for (1 .. 100) {
            last if waitpid($pid, 1) != 0;
            sleep 0.02;
        }
        kill 'KILL', $pid if waitpid($pid, 1) == 0;
        unlink glob "$dir/*";
        rmdir $dir;
    }
    $? = $rc;
}

1;
