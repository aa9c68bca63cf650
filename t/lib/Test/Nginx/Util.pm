# Util.pm - settings, state and small helpers of the Test::Nginx stand-in.
#
# Test files reach a few of these variables by their full names
# ($Test::Nginx::Util::ServerPort, ::ServRoot, ::PidFile, ::NginxVersion), so
# they live here under the names that openresty's library gives them.  The
# functions marked "exported" are what `use Test::Nginx::Socket` hands to a
# test file; call them before run_tests().
package Test::Nginx::Util;

use strict;
use warnings;

use Exporter 'import';
use File::Spec  ();
use IO::Socket::INET ();
use Test::More  ();
use Test::LongString ();
use Time::HiRes qw(sleep time);

our @SETTINGS = qw(
    env_to_nginx is_str repeat_each config_preamble worker_connections
    master_process_enabled no_long_string workers master_on master_off
    log_level no_shuffle no_root_location use_hup server_name server_addr
    server_root html_dir server_port server_port_for_client timeout
    no_nginx_manager check_accum_error_log add_block_preprocessor bail_out
    add_test_cleanup_handler add_cleanup_handler add_response_body_check
);
our @EXPORT_OK = (@SETTINGS, qw(
    expand_env parse_time extra_failure trim sleep_time
    access_log_lines error_log_lines run_cleanup_handlers
));

# ---- settings from the environment ------------------------------------------

our $Verbose       = $ENV{TEST_NGINX_VERBOSE};
our $NginxBinary   = $ENV{TEST_NGINX_BINARY} || 'nginx';
our $LoadModules   = $ENV{TEST_NGINX_LOAD_MODULES};
our $UseHup        = $ENV{TEST_NGINX_USE_HUP};
our $UseValgrind   = $ENV{TEST_NGINX_USE_VALGRIND};
our $NoNginxManager = $ENV{TEST_NGINX_NO_NGINX_MANAGER} || 0;
our $NoClean       = $ENV{TEST_NGINX_NO_CLEAN};
our $NoShuffle     = $ENV{TEST_NGINX_NO_SHUFFLE} || 0;
our $EventType     = $ENV{TEST_NGINX_EVENT_TYPE};
our $PostponeOutput = $ENV{TEST_NGINX_POSTPONE_OUTPUT};
our $Timeout       = $ENV{TEST_NGINX_TIMEOUT} || 3;
our $LogLevel      = $ENV{TEST_NGINX_LOG_LEVEL} || 'debug';
our $MasterProcessEnabled = $ENV{TEST_NGINX_MASTER_PROCESS} || 'off';
our $TestNginxSleep = $ENV{TEST_NGINX_SLEEP} || 0.015;
our $CheckAccumErrLog = $ENV{TEST_NGINX_CHECK_ACCUM_ERR_LOG};
our $ForceRestartOnTest = $ENV{TEST_NGINX_FORCE_RESTART_ON_TEST} // 1;
our $WorkerUser    = $ENV{TEST_NGINX_WORKER_USER};
our $Randomize     = $ENV{TEST_NGINX_RANDOMIZE};

our $ServerPort = $ENV{TEST_NGINX_SERVER_PORT} || $ENV{TEST_NGINX_PORT} || 1984;
our $ServerPortForClient = $ENV{TEST_NGINX_CLIENT_PORT} || $ServerPort;
our $ServRoot   = $ENV{TEST_NGINX_SERVROOT} || File::Spec->rel2abs('t/servroot');

# ---- settings that functions change -------------------------------------------

our $Workers           = 1;
our $WorkerConnections = 64;
our $RepeatEach        = 1;
our $ServerName        = 'localhost';
our $ServerAddr        = '127.0.0.1';
our $ConfigPreamble    = '';
our $NoRootLocation;
our $NoLongString;
our @EnvToNginx;
our @BlockPreprocessors;
our @CleanupHandlers;
our @TestCleanupHandlers;
our @ResponseBodyChecks;

# ---- state of a run ---------------------------------------------------------

our $NginxVersion;            # 1.022001 for 1.22.1
our $RandPorts = {};          # TEST_NGINX_RAND_PORT_n => port, for one block
our $ErrLogFilePos = 0;       # where this request's part of error.log begins

if ($Randomize) {
    $ServerPort = $ServerPortForClient = _free_port({});
    $ServRoot   = File::Spec->rel2abs("t/servroot_$ServerPort");
}
our $LogDir     = "$ServRoot/logs";
our $ErrLogFile = "$LogDir/error.log";
our $AccLogFile = "$LogDir/access.log";
our $HtmlDir    = "$ServRoot/html";
our $ConfDir    = "$ServRoot/conf";
our $ConfFile   = "$ConfDir/nginx.conf";
our $PidFile    = "$LogDir/nginx.pid";
$ENV{TEST_NGINX_SERVER_ROOT} = $ServRoot;

# ---- exported: settings -----------------------------------------------------

sub no_long_string { $NoLongString = 1 }
sub no_shuffle { $NoShuffle = 1 }
sub no_root_location { $NoRootLocation = 1 }
sub no_nginx_manager { $NoNginxManager = 1 }
sub check_accum_error_log { $CheckAccumErrLog = 1 }
sub master_on { $MasterProcessEnabled = 'on' }
sub master_off { $MasterProcessEnabled = 'off' }
sub use_hup { $UseHup = 1 }
sub html_dir { return $HtmlDir }
sub server_root { return $ServRoot }
sub env_to_nginx { push @EnvToNginx, @_; return }

# Each of these sets a value when given one and returns the present one.
sub repeat_each { $RepeatEach = $_[0] if @_; return $RepeatEach }
sub workers { $Workers = $_[0] if @_; return $Workers }
sub log_level { $LogLevel = $_[0] if @_; return $LogLevel }
sub timeout { $Timeout = $_[0] if @_; return $Timeout }
sub server_name { $ServerName = $_[0] if @_; return $ServerName }
sub server_addr { $ServerAddr = $_[0] if @_; return $ServerAddr }
sub config_preamble { $ConfigPreamble = $_[0] if @_; return $ConfigPreamble }

sub worker_connections {
    $WorkerConnections = $_[0] if @_;
    return $WorkerConnections;
}

sub master_process_enabled {
    $MasterProcessEnabled = $_[0] ? 'on' : 'off' if @_;
    return $MasterProcessEnabled;
}

sub server_port {
    $ServerPort = $ServerPortForClient = $_[0] if @_;
    return $ServerPort;
}

sub server_port_for_client {
    $ServerPortForClient = $_[0] if @_;
    return $ServerPortForClient;
}

sub add_block_preprocessor (&) { push @BlockPreprocessors, $_[0]; return }
sub add_response_body_check { push @ResponseBodyChecks, $_[0]; return }

# Handlers run last-in, first-out.
sub add_cleanup_handler { unshift @CleanupHandlers, $_[0]; return }
sub add_test_cleanup_handler { unshift @TestCleanupHandlers, $_[0]; return }

sub run_cleanup_handlers {
    while (my $handler = shift @CleanupHandlers) {
        $handler->();
    }
    return;
}

# Stops this file and tells prove to stop all others.
sub bail_out {
    run_cleanup_handlers();
    Test::More::BAIL_OUT(join '', @_);
}

# One test: equality, or a match when $expected is a regex.
sub is_str {
    my ($actual, $expected, $name) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return Test::More::like($actual, $expected, $name)
        if ref $expected eq 'Regexp';
    return Test::More::is($actual, $expected, $name) if $NoLongString;
    return Test::LongString::is_string($actual, $expected, $name);
}

# ---- shared helpers ---------------------------------------------------------

sub sleep_time { return $TestNginxSleep }

# A failure that no plan counts: a client timeout, an assertion in the log.
sub extra_failure {
    my ($message) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    Test::More->builder->no_ending(1);
    Test::More::fail($message);
    return;
}

# "3", "0.5s", "200ms" -> seconds; undef stays undef.
sub parse_time {
    my ($text) = @_;
    return undef if !defined $text;
    my ($number, $unit) = $text =~ /^\s*([0-9.]+)\s*(ms|s)?\s*$/
        or bail_out("Bad time: \"$text\"");
    return defined $unit && $unit eq 'ms' ? $number / 1000 : $number + 0;
}

sub trim {
    my ($text) = @_;
    return '' if !defined $text;
    $text =~ s/^\s+|\s+$//g;
    $text =~ s/\s+/ /g;
    return $text;
}

sub _free_port {
    my ($taken) = @_;
    for (1 .. 200) {
        my $port = 10000 + int rand 20000;
        next if $taken->{$port};
        my $probe = IO::Socket::INET->new(
            LocalAddr => '127.0.0.1', LocalPort => $port, Proto => 'tcp',
            Listen => 1, ReuseAddr => 1) or next;
        close $probe;
        return $port;
    }
    return undef;
}

# Replaces $TEST_NGINX_X; an unknown name stops the run, because a
# configuration with a hole in it would fail in a more puzzling way.
sub expand_env {
    my ($text, $name) = @_;
    return $text if !defined $text;
    $text =~ s/\$(TEST_NGINX_[A-Z0-9_]+)/_env_value($1, $name)/ge;
    return $text;
}

sub _env_value {
    my ($variable, $name) = @_;
    if ($variable =~ /^TEST_NGINX_RAND_PORT_\d+$/) {
        my %taken = map { $_ => 1 } $ServerPort, values %$RandPorts;
        return $RandPorts->{$variable} //= _free_port(\%taken)
            // bail_out("$name - no free port for $variable");
    }
    return $ENV{$variable}
        // bail_out("$name - No environment $variable defined.");
}

# ---- logs -------------------------------------------------------------------

# nginx writes some lines after it has closed the connection, hence the sleep.
sub access_log_lines {
    sleep(3 * $TestNginxSleep);
    open my $in, '<', $AccLogFile or die "open $AccLogFile: $!";
    return [<$in>];
}

# The lines since the last call, or all of them after check_accum_error_log().
sub error_log_lines {
    sleep(3 * $TestNginxSleep);
    open my $in, '<', $ErrLogFile or return [];
    return [<$in>] if $CheckAccumErrLog;
    seek $in, $ErrLogFilePos, 0 if $ErrLogFilePos;
    my @lines = <$in>;
    $ErrLogFilePos = tell $in;
    return \@lines;
}

1;
