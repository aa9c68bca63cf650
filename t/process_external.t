# process_external.t - an engine that somebody else runs: by hand, by systemd's
# socket activation; and peers of another version.
use strict;
use warnings;

use FindBin;
use IO::Socket::UNIX;
use Socket qw(SOCK_SEQPACKET SOCK_DGRAM);
use Test::More;
use Time::HiRes qw(sleep time);

require "$FindBin::Bin/lib/LLM/Nginx.pm";

# Does what systemd does with a .socket unit: listens, and runs the service with
# the socket as descriptor 3 when somebody comes.  A service that ends is run
# again when the next one comes.
sub activator {
    my ($n, $path, %env) = @_;
    my $socket = IO::Socket::UNIX->new(Type => SOCK_SEQPACKET, Local => $path, Listen => 16)
        or die "$path: $!";
    my $pid = fork // die "fork: $!";
    return $pid if $pid;
    my $engine = 0;
    $SIG{TERM} = sub { kill 'TERM', $engine if $engine; waitpid $engine, 0; unlink $path; exit 0 };
    require POSIX;
    while (1) {
        my $in = '';
        vec($in, fileno $socket, 1) = 1;
        select $in, undef, undef, undef;
        $engine = fork // die;
        if ($engine == 0) {
            open STDERR, '>>', "$n->{dir}/logs/engine.log";
            POSIX::dup2(fileno($socket), 3);
            open my $three, '<&=', 3;
            require Fcntl;
            fcntl $three, Fcntl::F_SETFD(), 0;
            $ENV{LISTEN_PID} = $env{pid} || $$;
            $ENV{LISTEN_FDS} = 1;
            $ENV{LISTEN_FDNAMES} = $env{names} if defined $env{names};
            $ENV{$_} = $env{env}{$_} for keys %{ $env{env} || {} };
            exec $n->{binary}, '--served-model-name', $n->{dir}, '--start-delay', 200;
            exit 127;
        }
        waitpid $engine, 0;
    }
}

for my $names ('llm', undef) {
    my $name = 'LISTEN_FDNAMES ' . ($names // 'unset');
    my $n = LLM::Nginx->new(engines => {});
    my $path = "$n->{dir}/act.sock";
    $n->write_conf(engines => { chat => "server unix:$path;" });
    my $notify = IO::Socket::UNIX->new(Type => SOCK_DGRAM, Local => "$n->{dir}/notify.sock");
    my $activator = activator($n, $path, names => $names,
        env => { NOTIFY_SOCKET => "$n->{dir}/notify.sock", WATCHDOG_USEC => 2000000 });
    is(scalar(grep { $_->[2] =~ /mock-engine/ } $n->left), 0, "$name: nothing runs before nginx comes");
    $n->start->wait_ready;
    $n->served("$name: nginx's connection starts the engine");
    my ($engine) = map { $_->[0] } grep { $_->[2] =~ /mock-engine/ } $n->left;

    my (%said, $message);
    my $until = time + 3;
    while (time < $until && ($said{'WATCHDOG=1'} || 0) < 3) {
        $notify->recv($message, 100);
        $said{$message}++;
    }
    is($said{'READY=1'}, 1, "$name: READY=1 once (Type=notify)");
    cmp_ok($said{'WATCHDOG=1'} || 0, '>=', 3, "$name: WATCHDOG=1 (WatchdogSec=)");

    my $s = $n->stream(tokens => 1000, delay_ms => 20);
    ok($s->read_until(qr/tok2 /), "$name: a stream runs");
    kill 'KILL', $engine;
    like($s->finish->{body}, qr/engine_lost/, "$name: engine killed");
    $n->wait_ready(15);
    $n->served("$name: the next connection starts another, through the same socket");
    ok(-S $path, "$name: the engine does not remove a socket that is not its own");
    $n->reload;
    $n->served("$name: a reload changes nothing");
    $n->stop;
    ok((grep { $_->[2] =~ /mock-engine/ } $n->left), "$name: nginx leaves it alone");
    kill 'TERM', $activator;
    waitpid $activator, 0;
    close $notify;
    unlink "$n->{dir}/notify.sock";
    $n->check_clean;
}

# The same with systemd's own tool, where there is one.
SKIP: {
    my ($tool) = grep { -x } map { "$_/systemd-socket-activate" } split /:/, $ENV{PATH};
    skip 'no systemd-socket-activate', 8 if !$tool;
    my $n = LLM::Nginx->new(engines => {});
    my $path = "$n->{dir}/act.sock";
    $n->write_conf(engines => { chat => "server unix:$path;" });
    my $pid = fork // die;
    if ($pid == 0) {
        open STDERR, '>>', "$n->{dir}/logs/engine.log";
        exec $tool, '--seqpacket', '--listen', $path, '--fdname', 'llm', $n->{binary},
            '--served-model-name', $n->{dir};
        exit 127;
    }
    ok($n->wait_for(sub { -S $path }), 'systemd-socket-activate listens');
    $n->start->wait_ready;
    $n->served('systemd-socket-activate: served');
    $n->stop;
    kill 'TERM', $pid;
    waitpid $pid, 0;
    unlink $path;
    $n->check_clean;
}

# Variables that are meant for another process are not taken.
{
    my $n = LLM::Nginx->new(engines => {});
    my $path = "$n->{dir}/act.sock";
    $n->write_conf(engines => { chat => "server unix:$path;" });
    my $activator = activator($n, $path, names => 'llm', pid => 1);
    $n->start;
    ok($n->wait_for(sub { $n->log('engine.log') =~ /no socket: give --socket PATH or start through/ }),
        'LISTEN_PID of another process: the engine says what is missing');
    $n->stop('TERM');
    kill 'KILL', $activator;
    waitpid $activator, 0;
    unlink $path;
    ok($n->wait_for(sub { !$n->left }), 'no process is left');
}

# HELLO of another version, of a stranger, and none: refused, once in the log.
{
    my $n = LLM::Nginx->new(workers => 1);
    $n->start->wait_ready;
    my ($path) = grep { !/owner/ } glob "$n->{dir}/chat.sock.*";
    my $hello = sub {
        my ($magic, $version) = @_;
        my $s = IO::Socket::UNIX->new(Type => SOCK_SEQPACKET, Peer => $path) or return;
        $s->send(pack 'a4 S S x56', $magic, $version, 64);
        my $answer = '';
        $s->recv($answer, 512);
        return unpack 'a4 S S L', $answer;
    };
    for (1 .. 5) {
        my ($magic, $version, $size, $status) = $hello->('NLLM', 999);
        is("$magic $size $status", 'NLLM 256 2', 'HELLO of version 999: WELCOME says no');
    }
    my @said = $n->log =~ /\[error\] \d+#\d+: llm: session \d+: process $$: .*version/g;
    is(scalar @said, 1, 'the engine says so once');
    my ($magic, $wire, undef, $status) = $hello->('HTTP', 1);     # its own version
    is($status, 1, 'not our magic number: refused');

    my $s = IO::Socket::UNIX->new(Type => SOCK_SEQPACKET, Peer => $path);
    close $s;
    is($n->chat->{status}, 200, 'one that goes at once harms nobody');
    unlike($n->log, qr/\[error\].*(?:Broken pipe|went before HELLO)/, 'and is no error');

    # As the owner of an engine: another version is told so, a wrong key refused.
    my $attach = sub {
        my $o = IO::Socket::UNIX->new(Type => SOCK_SEQPACKET, Peer => "$path.owner") or return;
        $o->send(pack 'a4 S S x24', 'NLLM', $_[0], 32);
        my $answer = '';
        $o->recv($answer, 512);
        return (unpack 'a4 S S L', $answer)[3];
    };
    is($attach->(999), 2, 'ATTACH of version 999 is refused');
    is($attach->($wire), 3, 'ATTACH with another key is refused');
    $n->served('and nginx goes on');
    $n->stop->check_clean;
}

# WELCOME of another version: each worker says it once, and asks seldom.
{
    my $n = LLM::Nginx->new(engine => 'handshake version; shutdown_timeout 1s;');
    $n->start;
    ok($n->wait_for(sub { 2 == (() = $n->log =~ /\[error\].*do not fit: the engine speaks another/g) }),
        'WELCOME of another version: each worker says it');
    sleep 5;
    is(scalar(() = $n->log =~ /\[error\].*do not fit/g), 2, 'and once only');
    cmp_ok(scalar(() = $n->log =~ /do not fit/g), '<=', 8, 'it asks seldom');
    like($n->get('/ready')->{body}, qr/"reasons":\{"chat":"the engine speaks another protocol version"/,
        'llm_health says it too');
    $n->stop('TERM')->check_clean;
}

done_testing();
