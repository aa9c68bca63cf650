# process_chaos.t - everything at once, at random: what nginx can do with a
# request around llm_pass, clients that leave, engines that die, reloads.
#
# No answer is looked at closely here, other files do that.  Afterwards no worker
# has died, the engine is idle, nothing is left.  Most useful with make asan-nginx.
# TEST_LLM_SEED repeats a run's choices, TEST_LLM_CHAOS=1000 makes it longer.
use strict;
use warnings;

use FindBin;
use Test::More;
use Time::HiRes qw(sleep time);

require "$FindBin::Bin/lib/LLM/Nginx.pm";

my $rounds = $ENV{TEST_LLM_CHAOS} || 150;
my $seed = $ENV{TEST_LLM_SEED} || time ^ $$;
srand $seed;
diag("seed $seed");

my $n = LLM::Nginx->new(workers => 2,
    engines => { chat => '', other => '' },
    http => 'client_body_buffer_size 1k;
        llm_limit_zone $llm_key zone=k:256k rate=1000000t/s;
        llm_model both chat other; llm_read_timeout 2s; llm_send_timeout 1s;',
    location => 'llm_buffer_size 8k; }
        location /next/ { llm_endpoint chat_completions; llm_pass both; llm_limit zone=k; }
        location /read/ { llm_endpoint chat_completions; llm_read_body on; llm_pass $llm_model;
            error_page 404 = @other; }
        location /error/ { llm_endpoint chat_completions; llm_pass chat; llm_limit zone=k;
            error_page 400 429 500 502 503 504 = @other; }
        location @other { llm_endpoint chat_completions; llm_pass other; llm_limit zone=k;
            error_page 500 502 503 504 = @proxy; recursive_error_pages on; }
        location @proxy { proxy_pass http://127.0.0.1:$server_port/next/; }
        location /proxy/ { proxy_pass http://127.0.0.1:$server_port/next/; }
        location /mirror/ { llm_endpoint chat_completions; llm_pass chat; mirror /next/m; }
        location /auth/ { auth_request /models; llm_endpoint chat_completions; llm_pass chat; }
        location = /models { internal; llm_endpoint models; llm_pass other; }
        location /after/ { llm_endpoint chat_completions; llm_pass chat; post_action @other; }
        location /keep/ { llm_endpoint chat_completions; llm_pass chat;
            llm_ignore_client_abort on; llm_limit zone=k; }
        location /late/ { llm_endpoint chat_completions; llm_pass both; llm_read_timeout 60ms;
            llm_limit zone=k; }
        location /sub/ { llm_endpoint chat_completions; llm_pass chat; add_after_body /models;
            add_before_body /models; }
        location = /other/metrics { llm_endpoint metrics; llm_pass other;');
$n->start->wait_ready;

my @places = qw(next read error proxy mirror auth after keep late sub);
my @faults = ({}, {}, {}, {}, { status => 500 }, { status => 503 }, { status => 400 },
    { refuse => 'true' }, { no_end => 'true' }, { ignore_cancel => 'true' },
    { close => 'true' }, { hang => 'request' }, { error_event => 'true' });

sub one_of { return $_[rand @_] }

sub request {
    my $body = LLM::Nginx::body(tokens => 1 + int rand 40, delay_ms => int rand 4,
        first_ms => int rand 30, bytes => one_of(1, 10, 400),
        stream => one_of('true', 'false'), %{ one_of(@faults) });
    $body =~ s/"model":"mock"/'"model":"' . one_of(qw(chat both none)) . '"'/e;
    $body =~ s/"x"/'"' . 'x' x 3000 . '"'/e if rand() < 0.3;
    return LLM::Nginx::request_text('/' . one_of(@places) . '/', body => $body,
        headers => { Authorization => 'Bearer ' . int rand 3,
            Connection => one_of('close', 'keep-alive') });
}

my (@open, %status);
local $SIG{PIPE} = 'IGNORE';

sub sweep {
    my ($all) = @_;
    my @stay;
    for my $c (@open) {
        my ($socket, $until) = @$c;
        $socket->blocking(0);
        sysread $socket, $c->[2], 65536, length($c->[2]) if rand() < 0.9;
        if ($all || time > $until) {
            $status{$1}++ if $c->[2] =~ m{^HTTP/1\.1 (\d+)};
            close $socket;
            next;
        }
        push @stay, $c;
    }
    @open = @stay;
    return;
}

for my $round (1 .. $rounds) {
    for (1 .. 1 + int rand 8) {
        my $socket = $n->connect or next;
        my $text = request();
        $text = substr $text, 0, int rand length $text if rand() < 0.1;
        print {$socket} $text;
        $socket->flush;
        shutdown $socket, 1 if rand() < 0.1;
        push @open, [$socket, time + (rand() < 0.3 ? 1 : rand 0.1), ''];
    }
    sleep 0.03;
    sweep();
    if ($round % 70 == 40) {
        my $engine = $n->engine(one_of('chat', 'other'));
        kill 'KILL', $engine if $engine;
    }
    $n->reload if $round % 50 == 30;
}
sweep() while @open && sleep 0.02;
diag(join ' ', map { "$_:$status{$_}" } sort keys %status);

unlike($n->log, qr/exited on signal/, 'no worker has died')
    or diag(join "\n", grep { /signal|alert/ } split /\n/, $n->log);
# What an engine has never ended goes with the session.
$n->reload;
ok($n->wait_for(sub { my @w = $n->workers; @w == 2 }, 15), 'the old workers have left');
$n->served('those that are there serve');
ok($n->wait_for(sub {
    my $r = $n->get('/metrics') // return 0;
    $r->{body} =~ /^vllm:num_requests_running\S* 0$/m;
}, 10), 'the engine is idle');
$n->stop->check_clean(except => qr/broke the protocol|signal 9/);

done_testing();
