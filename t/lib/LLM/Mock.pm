# Mock.pm - mock engines for a whole .t file in Test::Nginx format.
#
#     use Test::Nginx::Socket;
#     require "$FindBin::Bin/lib/LLM/Mock.pm";
#     LLM::Mock::setup();         # before run_tests(): one, called "mock"
#     LLM::Mock::setup_several(a => [], b => ['--load', 9], gone => undef);
#
# Starts nginx-llm-mock-engine with a socket of its own for each and puts
# "llm_engine NAME { server unix:...; }" into every block's http_config; one
# with undef for options has no process behind its socket.  The name is the
# engine's --name and --served-model-name too.  An engine that a block has made
# end is started again before the next one.  It is found by path, so that
# openresty's library can be used for the rest.
package LLM::Mock;

use strict;
use warnings;

use IO::Socket::UNIX;
use Time::HiRes qw(sleep);

my (%pid, %options, $dir, $owner);

sub setup {
    my (@options) = @_;
    return setup_several(mock => \@options);
}

sub setup_several {
    %options = @_;
    $dir = ($ENV{TEST_NGINX_RUN_DIR} || '/tmp') . "/mock-$$";
    mkdir $dir;
    $owner = $$;
    start($_) for sort keys %options;
    $ENV{TEST_NGINX_MOCK_SOCKET} = "$dir/mock.sock";
    my $engines = join '', map {
        "llm_engine $_ { server unix:$dir/$_.sock; }\n"
    } sort keys %options;
    Test::Nginx::Socket::add_block_preprocessor(sub {
        my ($block) = @_;
        my $http = $block->http_config // '';
        restart();
        $block->set_value('http_config', "$engines$http");
    });
    return;
}

sub start {
    my ($name) = @_;
    return if !$options{$name};
    my $binary = $ENV{TEST_NGINX_MOCK_ENGINE}
        || "$ENV{TEST_NGINX_ROOT}/build/release/nginx-llm-mock-engine";
    my $pid = fork // die "fork: $!";
    if ($pid == 0) {
        open STDIN, '<', '/dev/null';
        open STDERR, '>>', "$dir/mock.log";
        open STDOUT, '>&', \*STDERR;
        exec $binary, '--socket', "$dir/$name.sock", '--name', $name,
            '--served-model-name', $name, @{ $options{$name} };
        exit 127;
    }
    $pid{$name} = $pid;
    for (1 .. 250) {
        last if -S "$dir/$name.sock";
        sleep 0.02;
    }
    -S "$dir/$name.sock" or die "the mock engine does not start, see $dir/mock.log\n";
    # The worker of nginx may be another user than the one who runs the test.
    chmod 0777, "$dir/$name.sock";
    return;
}

sub restart {
    return if $$ != $owner;
    for my $name (sort keys %pid) {
        next if waitpid($pid{$name}, 1) == 0;
        unlink "$dir/$name.sock";
        start($name);
    }
    return;
}

END {
    my $rc = $?;
    if (%pid && $owner == $$) {
        kill 'TERM', values %pid;
        for my $pid (values %pid) {
            for (1 .. 100) {
                last if waitpid($pid, 1) != 0;
                sleep 0.02;
            }
            kill 'KILL', $pid if waitpid($pid, 1) == 0;
        }
        unlink glob "$dir/*";
        rmdir $dir;
    }
    $? = $rc;
}

1;
