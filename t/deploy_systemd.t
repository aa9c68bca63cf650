# deploy_systemd.t - the unit files are what systemd understands, and fit the engine.
use strict;
use warnings;

use File::Path qw(make_path remove_tree);
use FindBin;
use Test::More;

my $root = "$FindBin::Bin/..";
my $from = "$root/deploy/systemd";
my $dir = ($ENV{TEST_NGINX_RUN_DIR} || '/tmp') . "/systemd-$$";

sub slurp {
    my ($path) = @_;
    open my $f, '<', $path or die "$path: $!";
    local $/;
    return scalar <$f>;
}

my $service = slurp("$from/nginx-llm-engine\@.service");
my $socket = slurp("$from/nginx-llm-engine\@.socket");

like($service, qr/^RestartPreventExitStatus=78$/m, 'a configuration that cannot work is not retried');
like($service, qr/^LimitMEMLOCK=infinity$/m, 'memory may be pinned');
like($service, qr/^PrivateDevices=no$/m, '/dev/nvidia* is not hidden');
unlike($service, qr/^MemoryDenyWriteExecute=yes/m, 'PCRE2 and CUDA may compile');
like($socket, qr/^ListenSequentialPacket=/m, 'the kind of socket that the engine wants');
like($socket, qr/^FileDescriptorName=llm$/m, 'with the name that it looks for');

# The options of the example exist.
SKIP: {
    my $engine = $ENV{TEST_NGINX_ENGINE} || "$root/build/release/nginx-llm-engine";
    skip "no $engine", 1 if !-x $engine;
    my ($options) = slurp("$from/chat.conf") =~ /^LLM_OPTIONS=(.*)/m;
    my $help = qx($engine --help);
    my @unknown = grep { $help !~ /^\s*\Q$_\E\b/m } $options =~ /(--[a-z-]+)/g;
    is("@unknown", '', 'the engine knows the options of chat.conf');
}

# systemd's own opinion, on a copy whose program exists here.
SKIP: {
    my ($tool) = grep { -x } map { "$_/systemd-analyze" } split /:/, $ENV{PATH};
    skip 'no systemd-analyze', 2 if !$tool;
    make_path($dir);
    $service =~ s{/usr/lib/nginx-llm/nginx-llm-engine}{/bin/true};
    $service =~ s{/usr/bin/nvidia-modprobe}{/bin/true};
    for my $unit (['service', $service], ['socket', $socket]) {
        open my $f, '>', "$dir/nginx-llm-engine\@.$unit->[0]" or die $!;
        print {$f} $unit->[1];
        close $f;
    }
    my $said = qx(cd $dir && $tool verify --man=no ./nginx-llm-engine\@chat.service ./nginx-llm-engine\@chat.socket 2>&1);
    my @ours = grep { /nginx-llm/ } split /\n/, $said;
    is($?, 0, 'systemd-analyze verify') or diag($said);
    is("@ours", '', 'and it has nothing to say');
    remove_tree($dir);
}

done_testing();
