# Nginx.pm - nginx with managed engines as real processes, for t/process_*.t.
#
#     my $n = LLM::Nginx->new(engine => 'start_delay 100;');
#     $n->start;  $n->wait_ready;
#     my $s = $n->stream(tokens => 20, delay_ms => 10);  $s->finish;
#     kill 'KILL', $n->engine;
#     $n->stop;  $n->check_clean;
#
# Core Perl only.  A directory of its own per object; processes are found by
# that directory's name in their command lines, so nothing else is touched.
# Everything that waits has a limit; END kills what a failed test has left.
package LLM::Nginx;

use strict;
use warnings;

use File::Path qw(make_path remove_tree);
use IO::Select;
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep time);

my $count = 0;
my @all;

sub new {
    my ($class, %o) = @_;
    my $base = $ENV{TEST_NGINX_RUN_DIR} || "/tmp/llm-process-$$";
    my $dir = sprintf '%s/p%d-%d', $base, $$, $count++;
    make_path("$dir/logs");
    my $self = bless {
        dir => $dir, daemon => 'on', master => 'on', workers => 2,
        engine => '', http => '', location => '', server => '', main => '',
        connections => 512, events => $ENV{TEST_NGINX_EVENT_TYPE} ? "use $ENV{TEST_NGINX_EVENT_TYPE};" : '', %o,
        port => free_port(),
        binary => $ENV{TEST_NGINX_MOCK_ENGINE}
            || "$ENV{TEST_NGINX_ROOT}/build/release/nginx-llm-mock-engine",
        nginx => find_nginx(),
    }, $class;
    $self->{engines} //= { chat => $self->{engine} };
    $self->write_conf;
    push @all, $self;
    return $self;
}

# By its full path: a binary upgrade executes it again as it was called.
sub find_nginx {
    my $name = $ENV{TEST_NGINX_BINARY} || 'nginx';
    return $name if $name =~ m{/};
    my ($path) = grep { -x } map { "$_/$name" } split(/:/, $ENV{PATH}), '/usr/sbin';
    return $path || $name;
}

sub free_port {
    my $s = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Proto => 'tcp',
        Listen => 1) or die "no free port: $!";
    return $s->sockport;
}

sub write_conf {
    my ($self, %o) = @_;
    $self->{$_} = $o{$_} for keys %o;
    my $load = $self->{no_module} ? '' : join '', map { "load_module $_;\n" }
        split ' ', $ENV{TEST_NGINX_LOAD_MODULES} || '';
    my $engines = join '', map {
        my $e = $self->{engines}{$_};
        $e =~ /\bserver\b/ ? "    llm_engine $_ { $e }\n" :
        "    llm_engine $_ { binary $self->{binary}; "
            . "socket $self->{dir}/$_.sock; served_model_name $self->{dir}; $e }\n"
    } sort keys %{ $self->{engines} };
    $engines = '' if $self->{no_module};
    my $pass = $self->{no_module} ? 'location / { return 200; }'
        : "location / { llm_pass chat; $self->{location} }\n"
        . "location = /ready { llm_health ready; }\n"
        . "location = /live { llm_health live; }";
    my $finish = $self->{no_module} ? '' : '\$llm_finish_reason \$llm_completion_tokens ';
    $finish =~ tr/\\//d;
    my $user = $> == 0 ? 'user root;' : '';
    open my $f, '>', "$self->{dir}/nginx.conf" or die $!;
    print {$f} <<"END";
$load
daemon $self->{daemon};
master_process $self->{master};
worker_processes $self->{workers};
pid $self->{dir}/nginx.pid;
error_log $self->{dir}/logs/error.log info;
$user
$self->{main}
events { worker_connections $self->{connections}; $self->{events} }
http {
    log_format llm '\$status $finish"\$request"';
    access_log $self->{dir}/logs/access.log llm;
    client_body_temp_path $self->{dir}/body;
    proxy_temp_path $self->{dir}/proxy;
    fastcgi_temp_path $self->{dir}/fastcgi;
    uwsgi_temp_path $self->{dir}/uwsgi;
    scgi_temp_path $self->{dir}/scgi;
$engines
    $self->{http}
    server {
        listen 127.0.0.1:$self->{port};
        $pass
        $self->{server}
    }
}
END
    close $f;
    return $self;
}

# Takes a file of conf/ instead, with its @NAMES@ filled in; the last argument
# may be a function that changes the text.  Such a file runs in the foreground.
sub use_conf {
    my ($self, $name, @values) = @_;
    my $change = @values % 2 ? pop @values : sub { $_[0] };
    my %value = (PREFIX => $self->{dir}, PORT => $self->{port},
        MODEL => "$ENV{TEST_NGINX_ROOT}/models/demo", ENGINE => $self->{binary},
        MODULE => (split ' ', $ENV{TEST_NGINX_LOAD_MODULES})[0],
        CONF => "$ENV{TEST_NGINX_ROOT}/conf", USER => $> == 0 ? 'user root;' : '', @values);
    open my $in, '<', "$ENV{TEST_NGINX_ROOT}/conf/$name" or die "conf/$name: $!";
    my $text = do { local $/; <$in> };
    $text =~ s/\@([A-Z_]+)\@/$value{$1} \/\/ die "conf\/$name: no value for $1"/ge;
    open my $out, '>', "$self->{dir}/nginx.conf" or die $!;
    print {$out} $change->($text);
    close $out;
    return $self;
}

# Runs nginx -t or -s; returns (exit code, what it said).
sub nginx {
    my ($self, @args) = @_;
    my $out = "$self->{dir}/logs/command";
    my $rc = system "$self->{nginx} -p $self->{dir}/ -c nginx.conf @args > $out 2>&1";
    open my $f, '<', $out or die $!;
    local $/;
    return ($rc >> 8, scalar <$f>);
}

sub start {
    my ($self) = @_;
    if ($self->{daemon} eq 'on') {
        my ($rc, $said) = $self->nginx;
        is($rc, 0, 'nginx starts') or diag($said);
    } else {
        my $pid = fork // die "fork: $!";
        if ($pid == 0) {
            open STDOUT, '>', "$self->{dir}/logs/stdout";
            open STDERR, '>&', \*STDOUT;
            exec $self->{nginx}, '-p', "$self->{dir}/", '-c', 'nginx.conf';
            exit 127;
        }
        $self->{child} = $pid;
    }
    ok($self->wait_for(sub { $self->master }), 'nginx runs');
    return $self;
}

sub master {
    my ($self) = @_;
    open my $f, '<', "$self->{dir}/nginx.pid" or return undef;
    my $pid = <$f>;
    return undef if !defined $pid;
    chomp $pid;
    waitpid $self->{child}, 1 if $self->{child};      # WNOHANG
    return alive($pid) ? $pid : undef;
}

sub alive {
    my ($pid) = @_;
    open my $f, '<', "/proc/$pid/stat" or return 0;
    my $line = <$f> // return 0;
    return $line !~ /^\d+ \(.*\) [ZX]/s;
}

# [pid, parent, command line, name, start] of every process; no threads.
sub processes {
    my @found;
    for my $path (glob '/proc/[0-9]*') {
        my ($pid) = $path =~ /(\d+)$/;
        open my $f, '<', "$path/stat" or next;
        my $stat = <$f> // next;
        my ($name, $state, $ppid, $rest) = $stat =~ /^\d+ \((.*)\) (\S) (\d+) (.*)/s or next;
        my $start = (split ' ', $rest)[17];
        next if $state =~ /[ZX]/;
        open my $c, '<', "$path/cmdline" or next;
        local $/;
        my $cmd = <$c> // '';
        $cmd =~ tr/\0/ /;
        push @found, [$pid, $ppid, $cmd, $name, $start];
    }
    return @found;
}

# Supervisors and their standbys; each set of options has a socket of its own.
sub of_engine {
    my ($self, $engine) = @_;
    my $socket = "$self->{dir}/" . ($engine || 'chat') . '.sock';
    return grep { $_->[2] =~ /\Q--supervise-socket=$socket\E\.[0-9a-f]{8} / } processes();
}

# The supervisor is not a child of another of the same kind.  Newest last.
sub supervisors {
    my ($self, $engine) = @_;
    my @p = $self->of_engine($engine);
    my %pid = map { $_->[0] => 1 } @p;
    return map { $_->[0] } sort { $a->[4] <=> $b->[4] || $a->[0] <=> $b->[0] }
        grep { !$pid{$_->[1]} } @p;
}

sub supervisor {
    my ($self, $engine) = @_;
    return ($self->supervisors($engine))[-1];
}

sub standby {
    my ($self, $engine) = @_;
    my $top = $self->supervisor($engine) // return undef;
    my ($p) = grep { $_->[1] == $top } $self->of_engine($engine);
    return $p ? $p->[0] : undef;
}

# Of the newest supervisor, and of all of them.
sub engine {
    my ($self, $engine) = @_;
    my $top = $self->supervisor($engine) // return undef;
    my ($p) = grep { $_->[1] == $top && $_->[2] !~ /--supervise / } processes();
    return $p ? $p->[0] : undef;
}

sub engines {
    my ($self, $engine) = @_;
    my %top = map { $_ => 1 } $self->supervisors($engine);
    return map { $_->[0] } grep { $top{$_->[1]} && $_->[2] !~ /--supervise / } processes();
}

sub workers {
    my ($self) = @_;
    my $master = $self->master // return ();
    return map { $_->[0] } grep { $_->[1] == $master
        && $_->[2] =~ /worker process/ } processes();
}

# What exists only because of this object.
sub left {
    my ($self) = @_;
    return grep { $_->[0] != $$ && $_->[2] =~ /\Q$self->{dir}\E/ } processes();
}

sub wait_for {
    my ($self, $what, $seconds) = @_;
    my $until = time + ($seconds || 10);
    while (1) {
        my $result = $what->();
        return $result if $result;
        return undef if time > $until;
        sleep 0.02;
    }
}

sub wait_ready {
    my ($self, $seconds) = @_;
    my $ok = $self->wait_for(sub {
        my $r = $self->get('/ready');
        $r && $r->{status} == 200;
    }, $seconds || 10);
    ok($ok, 'the engine is ready') or diag($self->log_tail);
    return $self;
}

# Ready is what one worker knows; another finds a new engine by its own timer.
sub served {
    my ($self, $name) = @_;
    my $status = '';
    my $ok = $self->wait_for(sub {
        my $r = $self->chat;
        $status = $r ? $r->{status} : 'none';
        return $status eq '200';
    }, 10);
    return ok($ok, $name) || diag("last status $status");
}

sub reload {
    my ($self) = @_;
    my $old = () = $self->log =~ /reconfiguring/g;
    kill 'HUP', $self->master;
    return $self->wait_for(sub {
        my $now = () = $self->log =~ /reconfiguring/g;
        $now > $old && $self->log =~ /(?:start worker process|emerg|warn)[^\n]*\n(?!.*reconfiguring)/s;
    });
}

sub signal_and_wait {
    my ($self, $signal, $seconds) = @_;
    my $pid = $self->wait_for(sub { $self->master }, 2);
    if (!$pid) {
        diag("$signal: no master in $self->{dir}/nginx.pid");
        return 0;
    }
    kill $signal, $pid;
    return $self->wait_for(sub { !alive_or_child($self, $pid) }, $seconds || 10);
}

sub alive_or_child {
    my ($self, $pid) = @_;
    waitpid $self->{child}, 1 if $self->{child};
    return alive($pid);
}

sub stop {
    my ($self, $signal) = @_;
    ok($self->signal_and_wait($signal || 'QUIT'), 'nginx ends')
        or diag($self->log_tail);
    return $self;
}

sub log {
    my ($self, $name) = @_;
    open my $f, '<', "$self->{dir}/logs/" . ($name || 'error.log') or return '';
    local $/;
    return scalar(<$f>) // '';
}

sub log_tail {
    my ($self) = @_;
    my @lines = split /\n/, $self->log;
    splice @lines, 0, @lines - 30 if @lines > 30;
    return join "\n", @lines, map { "pid $_->[0] of $_->[1]: $_->[2]" } $self->left;
}

# No process, no socket, no complaint.
sub check_clean {
    my ($self, %o) = @_;
    ok($self->wait_for(sub { !$self->left }, 5), 'no process is left')
        or diag($self->log_tail);
    my @sockets = (glob("$self->{dir}/*.sock*"), $self->bound_sockets);
    is("@sockets", '', 'no socket is left');
    $self->check_log(%o);
    return $self;
}

# Unix sockets of ours that some process still holds, whether their file is there
# or not.
sub bound_sockets {
    my ($self) = @_;
    open my $f, '<', '/proc/net/unix' or return;
    return map { m{(\Q$self->{dir}\E/\S+)} ? $1 : () } <$f>;
}

# What the processes hold: descriptors of each kind, mapped regions, zombies.
# Two snapshots of the same number of workers and engines are equal, or
# something leaks.  Connections of clients and the listening port do not count.
sub holdings {
    my ($self) = @_;
    my $master = $self->master // return '';
    my %h;
    my %role = ($master => 'master', map({ $_ => 'worker' } $self->workers),
        map({ $_->[0] => $_->[2] =~ /--supervise / ? 'supervisor' : 'engine' }
            grep { $_->[2] =~ /\Q$self->{binary}\E/ } $self->left));
    for my $pid (keys %role) {
        for my $fd (glob "/proc/$pid/fd/*") {
            my $what = readlink($fd) // next;
            $what =~ s/:\[\d+\]$//;
            $what =~ s{^/memfd:.*}{memfd};
            $what =~ s{ \(deleted\)$}{};
            $h{"$role{$pid} fd $what"}++;
        }
        open my $m, '<', "/proc/$pid/maps" or next;
        $h{"$role{$pid} memfd mapped"} += grep { /memfd:nginx-llm/ } <$m>;
    }
    for my $path (glob '/proc/[0-9]*/stat') {
        open my $f, '<', $path or next;
        my ($state, $ppid) = (<$f> // '') =~ /^\d+ \(.*\) (\S) (\d+)/s or next;
        $h{"zombies of $role{$ppid}"}++ if $state eq 'Z' && $role{$ppid};
    }
    return join "\n", map { "$_: $h{$_}" } sort keys %h;
}

sub check_holdings {
    my ($self, $before, $name) = @_;
    my $now = '';
    my $ok = $self->wait_for(sub { ($now = $self->holdings) eq $before }, 15);
    ok($ok, $name || 'nothing has leaked') or is($now, $before, 'holdings');
    return $self;
}

sub check_log {
    my ($self, %o) = @_;
    my @logs = glob "$self->{dir}/logs/*error*";
    my @bad = grep { /\[(?:alert|crit|emerg)\]/ }
        map { split /\n/, $self->log(m{([^/]+)$}) } @logs;
    @bad = grep { !/$o{except}/ } @bad if $o{except};
    is(join("\n", @bad), '', 'no [alert], [crit] or [emerg]');
    return $self;
}

# ---- clients ------------------------------------------------------------------

sub connect {
    my ($self) = @_;
    return IO::Socket::INET->new(PeerAddr => '127.0.0.1', Proto => 'tcp',
        PeerPort => $self->{port}, Timeout => 5);
}

sub request_text {
    my ($uri, %o) = @_;
    my $body = delete $o{body};
    my $method = delete $o{method} || (defined $body ? 'POST' : 'GET');
    my %h = (Host => 'localhost', Connection => 'close', %{ $o{headers} || {} });
    if (defined $body) {
        $h{'Content-Type'} //= 'application/json';
        $h{'Content-Length'} //= length $body;
    }
    return join("\r\n", "$method $uri HTTP/1.1",
        (map { "$_: $h{$_}" } sort keys %h), '', '') . ($body // '');
}

# {status, headers, body} or undef; waits for the end of the connection.
sub get {
    my ($self, $uri, %o) = @_;
    my $s = LLM::Nginx::Stream->new($self, request_text($uri, %o)) // return undef;
    return $s->finish($o{seconds});
}

sub body {
    my (%mock) = @_;
    my $stream = delete $mock{stream} // 'true';
    my $mock = join ',', map {
        my $v = $mock{$_};
        sprintf '"%s":%s', $_, $v =~ /^(?:\d+|true|false)$/ ? $v : "\"$v\"";
    } sort keys %mock;
    return qq({"model":"mock","stream":$stream,"messages":[{"role":"user","content":"x"}],"mock":{$mock}});
}

sub chat {
    my ($self, %mock) = @_;
    return $self->get('/v1/chat/completions', body => body(stream => 'false', %mock));
}

sub stream {
    my ($self, %mock) = @_;
    return LLM::Nginx::Stream->new($self,
        request_text('/v1/chat/completions', body => body(%mock)));
}

END {
    my $rc = $?;
    for my $self (@all) {
        my $master = $self->master;
        kill 'KILL', $self->workers, $master if $master;
        for my $p ($self->left) { kill 'KILL', $p->[0]; }
        remove_tree($self->{dir}) if $rc == 0 || !$ENV{TEST_NGINX_NO_CLEAN};
    }
    $? = $rc;
}

# ---- one response in flight -----------------------------------------------------
package LLM::Nginx::Stream;

use Time::HiRes qw(time);

sub new {
    my ($class, $nginx, $request) = @_;
    my $socket = $nginx->connect // return undef;
    local $SIG{PIPE} = 'IGNORE';
    print {$socket} $request;
    $socket->flush;
    return bless { socket => $socket, data => '' }, $class;
}

# Reads until $pattern is there, the end, or the time is up; true if it came.
sub read_until {
    my ($self, $pattern, $seconds) = @_;
    my $until = time + ($seconds || 10);
    my $select = IO::Select->new($self->{socket});
    while (!$self->{eof}) {
        return 1 if defined $pattern && $self->{data} =~ $pattern;
        my $left = $until - time;
        return 0 if $left <= 0 || !$select->can_read($left);
        my $n = sysread $self->{socket}, my $chunk, 65536;
        if (!$n) {
            $self->{eof} = 1;
            last;
        }
        $self->{data} .= $chunk;
    }
    return defined $pattern ? $self->{data} =~ $pattern : $self->{eof};
}

sub finish {
    my ($self, $seconds) = @_;
    $self->read_until(undef, $seconds || 20);
    my ($head, $body) = split /\r\n\r\n/, $self->{data}, 2;
    return undef if !defined $head || $head !~ m{^HTTP/1\.\d (\d+)};
    my $status = $1;
    if ($head =~ /transfer-encoding: chunked/i) {
        my ($rest, $plain) = ($body // '', '');
        my $last = 0;
        while ($rest =~ s/^([0-9a-f]+)\r\n//i) {
            my $n = hex $1;
            $last = 1, last if $n == 0;
            $plain .= substr $rest, 0, $n;
            substr($rest, 0, $n + 2) = '' if length $rest >= $n;
        }
        return { status => $status, head => $head, body => $plain,
            complete => $last, eof => $self->{eof} };
    }
    return { status => $status, head => $head, body => $body // '',
        complete => $self->{eof}, eof => $self->{eof} };
}

sub close {
    my ($self) = @_;
    close $self->{socket};
    return;
}

1;
