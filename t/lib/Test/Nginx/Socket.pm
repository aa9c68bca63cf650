# Socket.pm - a stand-in for openresty's Test::Nginx::Socket, for machines without CPAN.
#
#     use Test::Nginx::Socket tests => 3;
#     run_tests();
#     __DATA__
#     === TEST 1: a plain answer
#     --- config
#         location = /t { return 200 "ok\n"; }
#     --- request
#         GET /t
#     --- response_body
#     ok
#     --- no_error_log
#     [error]
#
# The same file runs unchanged, with the same number of tests, on the real
# library: `prove -It/lib t` is this one, `prove -I/path/test-nginx/lib t` that
# one.  t/README.md lists the sections and what is left out.  Blocks and
# filters are Test::Base's; files, nginx and client are in Standin/.
package Test::Nginx::Socket;

use v5.14;
use Test::Base -Base;

use List::Util qw(shuffle);
use Time::HiRes ();
use Test::Nginx::Util ();
use Test::Nginx::Standin::Http qw(requests_of parse_response);
use Test::Nginx::Standin::Client qw(exchange);
use Test::Nginx::Standin::Check
    qw(check_response check_error_log check_access_log check_shutdown_log);
use Test::Nginx::Standin::Server qw(
    nginx_version running_pid write_conf start_nginx stop_nginx reload_nginx
    prepare_root compare_versions);

# Functions here have a prototype: Test::Base gives those without one a $self.
BEGIN { Test::Nginx::Util->import(@Test::Nginx::Util::SETTINGS) }
our @EXPORT = (qw(plan run_tests run_test), @Test::Nginx::Util::SETTINGS);

my $previous_config;      # what the running nginx was started with
my $previous_block;       # its shutdown log is still to be checked
my $started;              # this file has started nginx at least once

# The entry point of a test file; runs every block.
sub run_tests () {
    $Test::Nginx::Util::NginxVersion = nginx_version();
    $ENV{TEST_NGINX_SERVER_PORT} //= $Test::Nginx::Util::ServerPort;
    my @blocks = Test::Base::blocks();
    @blocks = shuffle @blocks if !$Test::Nginx::Util::NoShuffle;
    for my $block (@blocks) {
        $_->($block) for @Test::Nginx::Util::BlockPreprocessors;
        $block->set_value('name', "$0 " . $block->name);
        run_test($block);
        $_->($block) for @Test::Nginx::Util::TestCleanupHandlers;
        $previous_block = $block;
    }
    Test::Nginx::Util::run_cleanup_handlers();
}

sub run_test ($) {
    my ($block) = @_;
    return if defined $block->SKIP;
    local $Test::Nginx::Util::LogLevel = $block->log_level || $Test::Nginx::Util::LogLevel;
    local $Test::Nginx::Util::UseHup =
        defined $block->must_die ? undef : $Test::Nginx::Util::UseHup;
    $Test::Nginx::Util::RandPorts = {};
    my ($how, $count, $reason) = _skip_or_todo($block);

    if ($how ne 'skip' && !$Test::Nginx::Util::NoNginxManager) {
        return if _serve($block) eq 'died';
    }
    if ($block->init) {
        eval $block->init;
        bail_out($block->name . " - init failed: $@") if $@;
    }
    $Test::Nginx::Util::ErrLogFilePos = 0;
    for my $repeat (0 .. $Test::Nginx::Util::RepeatEach - 1) {
        if ($how eq 'skip') {
            SKIP: { skip($block->name . " - $reason", $count) }
        } elsif ($how eq 'todo') {
            TODO: { todo_skip($block->name . " - $reason", $count) }
        } else {
            _run_once($block, $repeat);
        }
    }
}

# Returns ('', 'skip' or 'todo', number of tests, reason) for this block.
sub _skip_or_todo ($) {
    my ($block) = @_;
    my $name = $block->name;
    my $version = qr/([<>]=?)\s*(\d+\.\d+\.\d+)/;
    if (defined(my $spec = $block->skip_eval)) {
        my ($count, $code) = $spec =~ /^\s*(\d+)\s*:\s*(.*)/s
            or bail_out("$name - Invalid --- skip_eval spec: $spec");
        my $skip = eval $code;
        bail_out("$name - skip_eval - \"$code\": $@") if $@;
        return ('skip', $count, 'skip_eval') if $skip;
    }
    if (defined(my $spec = $block->skip_nginx)) {
        my ($count, $op, $want, $reason) =
            $spec =~ /^\s*(\d+)\s*:\s*$version\s*(?::\s*(.*?))?\s*$/s
            or bail_out("$name - Invalid --- skip_nginx spec: $spec");
        return ('skip', $count, $reason || "nginx version $op $want")
            if compare_versions($op, $want);
    }
    if (defined(my $spec = $block->todo)) {
        my ($count, $reason) = $spec =~ /^\s*(\d+)\s*:\s*(.*)/s
            or bail_out("$name - Invalid --- todo spec: $spec");
        return ('todo', $count, $reason || 'various reasons');
    }
    return ('', 0, '');
}

# Brings nginx to the block's configuration.  Returns 'died' after a must_die
# block, whose tests are then done, else ''.
sub _serve ($) {
    my ($block) = @_;
    my $config = Test::Nginx::Util::expand_env(scalar $block->config, $block->name);
    if (!defined $config) {
        defined $previous_config
            or bail_out($block->name . ' - No --- config section, and no block before this one had one.');
        return '';
    }
    my $changed = !defined $previous_config || $config ne $previous_config;
    return '' if !$changed && !$Test::Nginx::Util::ForceRestartOnTest;
    $previous_config = $config;
    my $pid = running_pid();
    my $use_hup = $Test::Nginx::Util::UseHup;
    Test::Nginx::Util::master_on() if $use_hup;   # without a master HUP keeps old listeners
    if ($use_hup && $started && defined $pid) {
        prepare_root(1);
        write_conf($block, $config);
        reload_nginx($block, $pid);
        _check_previous_shutdown();
        return '';
    }
    stop_nginx();
    _check_previous_shutdown();
    $Test::Nginx::Util::ErrLogFilePos = 0;
    prepare_root(0);
    write_conf($block, $config);
    $started = 1;
    return _expect_death($block) if defined $block->must_die;
    start_nginx($block, 0);
    return '';
}

# --- must_die[: code]: nginx refuses this configuration.
sub _expect_death ($) {
    my ($block) = @_;
    my $want = Test::Nginx::Util::trim($block->must_die);
    for my $repeat (0 .. $Test::Nginx::Util::RepeatEach - 1) {
        my ($code, $crashed) = start_nginx($block, 1);
        if ($crashed) {
            fail($block->name . ' - nginx crashed or could not be run');
        } elsif ($want =~ /^\d+$/) {
            is($code, $want, $block->name . ' - die with the expected exit code');
        } else {
            isnt($code, 0, $block->name . ' - die as expected');
        }
        check_error_log($block, $repeat);
        if ($code == 0 && !$crashed) {
            warn $block->name, " - nginx must die but it does not\n";
            Time::HiRes::sleep(0.1);
            stop_nginx();
        }
    }
    return 'died';
}

# Sends the block's requests once and checks everything it expects.
sub _run_once ($$) {
    my ($block, $repeat) = @_;
    my $timeout = Test::Nginx::Util::parse_time($block->timeout)
        // $Test::Nginx::Util::Timeout;
    my $connections = requests_of($block);
    my $pipelined = $block->pipelined_requests;
    my $total = $pipelined ? @$pipelined : @$connections;
    my $done = 0;
    for my $packets (@$connections) {
        my $is_head = join('', map { $_->{value} } @$packets) =~ /^\s*HEAD\s/;
        my $bytes = exchange($packets, $timeout, $block) // '';
        for (1 .. ($pipelined ? $total : 1)) {
            my $at = { req => $done, repeat => $repeat,
                       many => $total > 1 || $pipelined };
            $bytes = _check_one($block, $bytes, $is_head, $at);
            $done++;
            _check_logs($block, $repeat);
        }
        warn 'WARNING: ', $block->name, ' - unexpected extra bytes after the response: "',
            $bytes =~ s/([\0-\x1f\x80-\xff])/sprintf '\x%02x', ord $1/egr, "\"\n"
            if length $bytes && !defined $block->ignore_response;
    }
}

# Checks the first response in $bytes and returns what follows it.
sub _check_one ($$$$) {
    my ($block, $bytes, $is_head, $at) = @_;
    return '' if defined $block->ignore_response;
    my ($res, $raw_headers, $rest);
    if (defined $block->http09) {
        $res = { code => 200, header => {}, content => $bytes };
    } else {
        ($res, $raw_headers, $rest) = parse_response($block->name, $bytes, $is_head);
    }
    check_response($block, $res, $raw_headers, $at);
    return $rest // '';
}

sub _check_logs ($$) {
    my ($block, $repeat) = @_;
    Time::HiRes::sleep(Test::Nginx::Util::parse_time($block->wait)) if $block->wait;
    check_error_log($block, $repeat);
    check_access_log($block, $repeat) if !defined $block->ignore_response;
}

# The previous block's nginx has just been stopped (or not, under HUP).
sub _check_previous_shutdown () {
    my $block = $previous_block;
    undef $previous_block;
    return if !defined $block;
    check_shutdown_log($block, $Test::Nginx::Util::UseHup || $Test::Nginx::Util::NoClean);
}

END {
    my $status = $?;
    Test::Nginx::Util::run_cleanup_handlers();
    if (!$Test::Nginx::Util::NoClean) {
        stop_nginx() if $started;
    }
    _check_previous_shutdown();
    if ($Test::Nginx::Util::Randomize && $Test::Nginx::Util::ServRoot =~ m{/servroot_\d+$}
        && !$Test::Nginx::Util::NoClean)
    {
        system 'rm', '-rf', $Test::Nginx::Util::ServRoot;
    }
    $? = $status;
}

1;
