# Server.pm - writes one block's nginx.conf and files, starts, reloads and stops nginx.
#
# There is at most one nginx at a time, found through its pid file.  Without
# TEST_NGINX_USE_HUP every block starts a fresh one; with it the first block
# starts nginx and the others send HUP and wait until only new workers answer.
package Test::Nginx::Standin::Server;

use strict;
use warnings;

use Exporter 'import';
use File::Find ();
use File::Path qw(make_path remove_tree);
use IO::Socket::INET ();
use Time::HiRes qw(sleep time);
use Test::Nginx::Util qw(bail_out expand_env extra_failure);

our @EXPORT_OK = qw(
    nginx_version running_pid write_conf start_nginx stop_nginx reload_nginx
    prepare_root compare_versions
);

use constant START_SECONDS  => 10;    # retries, e.g. while a port is still taken
use constant RELOAD_SECONDS => 30;
use constant SAME_ANSWERS   => 20;    # in a row, 10 ms apart: the master leaves both
                                      # generations accepting for 100 ms

my $config_version = '';

# ---- nginx as installed -----------------------------------------------------

# 1.22.1 -> 1.022001, which compares as a number; undef without nginx.
sub nginx_version {
    my $text = qx("$Test::Nginx::Util::NginxBinary" -V 2>&1);
    return undef if !defined $text || $text !~ m{version: \S+?/(\d+)\.(\d+)\.(\d+)};
    return _number($1, $2, $3);
}

sub _number { return sprintf '%d.%03d%03d', @_ }

# compare_versions('<', '1.25.1'): does the nginx under test satisfy this?
sub compare_versions {
    my ($op, $version) = @_;
    my $have = $Test::Nginx::Util::NginxVersion;
    return $op =~ /^</ ? 1 : 0 if !defined $have;
    my $want = _number(split /\./, $version);
    return $have <  $want if $op eq '<';
    return $have <= $want if $op eq '<=';
    return $have >  $want if $op eq '>';
    return $have >= $want;
}

# ---- the server root --------------------------------------------------------

# Leaves logs/, html/ and conf/ fresh.  A directory that something else still
# uses is an error: the next nginx would inherit it.
sub prepare_root {
    my ($keep_running) = @_;
    my $root = $Test::Nginx::Util::ServRoot;
    if (-d $root && $keep_running) {
        my $delete = sub {
            return if -d $_ || /(?:\bnginx\.pid|\.sock|\.crt|\.key)$/;
            unlink $_ or warn "unlink $_: $!\n";
        };
        File::Find::find({ no_chdir => 1, wanted => $delete }, $root);
    } elsif (-d $root) {
        remove_tree($Test::Nginx::Util::ConfDir, $Test::Nginx::Util::LogDir,
            $Test::Nginx::Util::HtmlDir, glob "$root/*_cache $root/*_temp");
        rmdir $root or bail_out("Can't remove $root (not empty?): $!");
    }
    make_path($root, $Test::Nginx::Util::LogDir, $Test::Nginx::Util::HtmlDir,
        $Test::Nginx::Util::ConfDir);
    _write("$Test::Nginx::Util::HtmlDir/index.html",
        '<html><head><title>It works!</title></head><body>It works!</body></html>');
    return;
}

sub _write {
    my ($path, $text) = @_;
    open my $out, '>:raw', $path or bail_out("Can't write $path: $!");
    print {$out} $text;
    close $out or bail_out("Can't write $path: $!");
    return;
}

# --- user_files: ">>> name [time]" lines, each followed by the content; or an
# array of [name, content, time].
sub _write_user_files {
    my ($block) = @_;
    my $files = $block->user_files or return;
    if (!ref $files) {
        my @list;
        for my $line (split /^/m, $files) {
            if ($line =~ /^>>> (\S+)(?:[ \t]+(.+))?/) {
                push @list, [$1, '', $2];
            } elsif (@list) {
                $list[-1][1] .= $line;
            }
        }
        $files = \@list;
    }
    for my $file (@$files) {
        my ($name, $content, $time) = @$file;
        my $path = $name =~ m{^/} ? $name : "$Test::Nginx::Util::HtmlDir/$name";
        make_path($1) if $path =~ m{^(.+)/};
        _write($path, expand_env($content // '', $block->name));
        next if !defined $time;
        local $ENV{TZ} = 'GMT';
        system('touch', '-t', $time, $path) == 0
            or bail_out($block->name . " - touch -t $time $path failed");
    }
    return;
}

# ---- nginx.conf -------------------------------------------------------------

# Writes the root's files and the configuration for $block.
sub write_conf {
    my ($block, $config) = @_;
    if (my $code = $block->post_setup_server_root) {
        eval $code;
        bail_out($block->name . " - post_setup_server_root failed: $@") if $@;
    }
    _write_user_files($block);
    $config_version = join '', map { ('a' .. 'z')[rand 26] } 1 .. 12;
    _write($Test::Nginx::Util::ConfFile, _conf_text($block, $config));
    return;
}

sub _conf_text {
    my ($block, $config) = @_;
    # A section that is absent yields an empty list: ask for a scalar.
    my %part = map { $_ => expand_env(scalar $block->$_, $block->name) // '' }
        qw(main_config http_config post_main_config error_log_file);
    $part{error_log_file} ||= $Test::Nginx::Util::ErrLogFile;
    my $modules = join ' ', map { "load_module $_;" }
        split ' ', expand_env($Test::Nginx::Util::LoadModules // '', $block->name);
    my @env = (qw(MOCKEAGAIN_VERBOSE MOCKEAGAIN MOCKEAGAIN_WRITE_TIMEOUT_PATTERN
        LD_PRELOAD LD_LIBRARY_PATH DYLD_INSERT_LIBRARIES DYLD_FORCE_FLAT_NAMESPACE
        ASAN_OPTIONS MOCKNOEAGAIN_VERBOSE MOCKNOEAGAIN),
        map { /\s/ ? "'$_'" : $_ } @Test::Nginx::Util::EnvToNginx);
    my $user = $Test::Nginx::Util::WorkerUser // ($> == 0 ? 'root' : undef);

    my @text = (
        "worker_processes $Test::Nginx::Util::Workers;",
        'daemon on;',
        "master_process $Test::Nginx::Util::MasterProcessEnabled;",
        "error_log $part{error_log_file} $Test::Nginx::Util::LogLevel;",
        "pid $Test::Nginx::Util::PidFile;",
        (map { "env $_;" } @env),
        "$modules $part{main_config}",
        _http_text($block, $config, $part{http_config}),
        $part{post_main_config},
        'events {',
        '    accept_mutex off;',
        "    worker_connections $Test::Nginx::Util::WorkerConnections;",
        ($Test::Nginx::Util::EventType ? "    use $Test::Nginx::Util::EventType;" : ()),
        '}',
        (defined $user ? "user $user;" : ()),
    );
    return join("\n", @text) . "\n";
}

sub _http_text {
    my ($block, $config, $http_config) = @_;
    my $root = $Test::Nginx::Util::ServRoot;
    my $port = $Test::Nginx::Util::ServerPort;
    my $server_name = $block->server_name // $Test::Nginx::Util::ServerName;
    my @temp = grep { $http_config !~ /\b${_}_temp_path\b/ }
        qw(client_body proxy fastcgi scgi uwsgi);
    my $postpone = $Test::Nginx::Util::PostponeOutput;
    if (defined $postpone && $http_config !~ /\bpostpone_output\b/) {
        $postpone =~ /^\d+$/
            or bail_out("Bad TEST_NGINX_POSTPONE_OUTPUT value: $postpone");
        $http_config .= "\n    postpone_output $postpone;";
    }
    my $root_location = $Test::Nginx::Util::NoRootLocation ? ''
        : "location / { root $Test::Nginx::Util::HtmlDir; index index.html index.htm; }";
    # The second server tells a reload's new workers from its old ones.
    my $marker = $Test::Nginx::Util::UseHup ? <<"END" : '';
    server {
        listen $port;
        server_name 'Test-Nginx';
        location = /ver { return 200 '$config_version'; }
    }
END
    return <<"END";
http {
    access_log $Test::Nginx::Util::AccLogFile;
    @{[map { "${_}_temp_path $root/${_}_temp;" } @temp]}
    default_type text/plain;
    keepalive_timeout 68s;
$http_config
    server {
        listen $port;
        server_name '$server_name';
        client_max_body_size 30M;
$Test::Nginx::Util::ConfigPreamble
$config
        $root_location
    }
$marker
}
END
}

# ---- start, reload, stop ----------------------------------------------------

# The pid of the nginx that is running for this test file, or undef.
sub running_pid {
    open my $in, '<', $Test::Nginx::Util::PidFile or return undef;
    my $pid = <$in> // '';
    return undef if $pid !~ /^(\d+)$/ || !_alive($1);
    return $1;
}

# A zombie whose parent does not reap still takes signals, but is gone.
sub _alive {
    my ($pid) = @_;
    return 0 if !kill 0, $pid;
    open my $in, '<', "/proc/$pid/stat" or return -d '/proc/self' ? 0 : 1;
    return (<$in> // '') =~ /\) Z / ? 0 : 1;
}

# Runs nginx once.  Returns (exit code, died of a signal or could not be run).
sub _launch {
    my ($block) = @_;
    my @cmd = ($Test::Nginx::Util::NginxBinary,
        '-e', $Test::Nginx::Util::ErrLogFile,
        '-p', "$Test::Nginx::Util::ServRoot/", '-c', $Test::Nginx::Util::ConfFile);
    if (my $valgrind = $Test::Nginx::Util::UseValgrind) {
        my @options = $valgrind =~ /^\d+$/ ? ('--leak-check=full') : split ' ', $valgrind;
        unshift @cmd, 'valgrind', '-q', @options;
    }
    my $stderr = defined $block->suppress_stderr ? '2>/dev/null' : '';
    my $status = system "@{[map { quotemeta } @cmd]} >/dev/null $stderr";
    return ($status >> 8, $status == -1 || $status & 127 || ($status >> 8) > 128);
}

# must_die blocks want one attempt; others wait while a port is still taken.
sub start_nginx {
    my ($block, $must_die) = @_;
    my ($code, $crashed) = _launch($block);
    return ($code, $crashed) if $must_die;
    my $deadline = time + START_SECONDS;
    my $wait = 0;
    while ($code != 0 || $crashed) {
        bail_out($block->name . " - Cannot start nginx (exit code $code).")
            if time > $deadline || !_port_was_taken();
        $wait = $wait < 1 ? $wait + 0.1 : 1;
        sleep $wait;
        ($code, $crashed) = _launch($block);
    }
    sleep $Test::Nginx::Util::TestNginxSleep;
    return (0, 0);
}

sub _port_was_taken {
    open my $in, '<', $Test::Nginx::Util::ErrLogFile or return 0;
    return scalar grep { /bind\(\) .* failed \(\d+: Address already in use\)/ } <$in>;
}

# QUIT, then TERM, then KILL of the process group (daemons lead theirs).
sub stop_nginx {
    my $pid = running_pid();
    if (defined $pid) {
        kill QUIT => $pid;
        _wait_gone($pid, $Test::Nginx::Util::Timeout)
            or warn "nginx $pid does not leave on QUIT\n";
        if (_alive($pid)) {
            kill TERM => $pid;
            _wait_gone($pid, 2);
        }
        if (_alive($pid)) {
            warn "nginx $pid does not leave on TERM, killing it\n";
            kill KILL => (getpgrp($pid) == $pid ? -$pid : $pid);
            _wait_gone($pid, 2);
        }
    }
    unlink $Test::Nginx::Util::PidFile;
    return;
}

sub _wait_gone {
    my ($pid, $seconds) = @_;
    my $deadline = time + $seconds;
    while (_alive($pid)) {
        return 0 if time > $deadline;
        sleep 0.01;
    }
    return 1;
}

# The configuration is already written; nginx reopens its deleted logs on USR1.
sub reload_nginx {
    my ($block, $pid) = @_;
    kill USR1 => $pid;
    sleep $Test::Nginx::Util::TestNginxSleep;
    kill HUP => $pid;
    sleep 3 * $Test::Nginx::Util::TestNginxSleep;
    if (defined $block->reload_fails) {
        sleep 0.3;
        return;
    }
    my $deadline = time + RELOAD_SECONDS;
    my $same = 0;
    while ($same < SAME_ANSWERS) {
        if (_answering_version() eq $config_version) {
            $same++;
            sleep 0.01;
            next;
        }
        $same = 0;
        if (time > $deadline) {
            extra_failure($block->name . ' - failed to reload configuration');
            return;
        }
        sleep 0.02;
    }
    return;
}

sub _answering_version {
    my $sock = IO::Socket::INET->new(
        PeerAddr => $Test::Nginx::Util::ServerAddr,
        PeerPort => $Test::Nginx::Util::ServerPortForClient,
        Proto => 'tcp', Timeout => 2) or return '';
    local $SIG{PIPE} = 'IGNORE';
    print {$sock} "GET /ver HTTP/1.0\r\nHost: Test-Nginx\r\n\r\n";
    my $answer = do { local $/; <$sock> } // '';
    return $answer =~ /\r\n\r\n(.*)\z/s ? $1 : '';
}

1;
