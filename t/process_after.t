# process_after.t - post_action behind a client that leaves: nginx takes the
# request elsewhere, the engine is told, and nothing of it comes back later.
use strict;
use warnings;

use FindBin;
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

# @after is what people do with post_action: it tells an accounting service,
# here another engine that takes its time.
my $after = LLM::Nginx::body(stream => 'false', first_ms => 3000, tokens => 1);

sub new_nginx {
    my $n = LLM::Nginx->new(workers => 1,
        engines => { chat => '', other => '' },
        location => '}
            location = /v1/chat/completions { llm_pass chat; post_action @after; }
            location @after {
                proxy_method POST;
                proxy_set_header Content-Type application/json;
                proxy_set_body \'' . $after . '\';
                proxy_pass http://127.0.0.1:$server_port/other;
            }
            location = /other { llm_endpoint chat_completions; llm_pass other;');
    return $n->start->wait_ready;
}

sub running {
    my ($n) = @_;
    my ($value) = ($n->get('/metrics') || { body => '' })->{body}
        =~ /^vllm:num_requests_running\S* (\d+)/m;
    return $value // -1;
}

# A client that leaves a stream which has just begun.
sub leave {
    my ($n, %mock) = @_;
    my $s = $n->stream(tokens => 1000, delay_ms => 20, %mock);
    ok($s->read_until(qr/tok1 /), 'a stream has begun');
    is(running($n), 1, 'the engine runs it');
    $s->close;
}

{
    my $n = new_nginx();
    my ($worker) = $n->workers;
    leave($n);
    ok($n->wait_for(sub { running($n) == 0 }, 2), 'the client leaves: the engine stops');
    unlike($n->log('access.log'), qr{POST /other}, 'at once, not when @after ends');
    ok($n->wait_for(sub { $n->log('access.log') =~ m{POST /other} }), '@after has had its turn');
    is($n->chat->{status}, 200, 'the worker serves');
    is(($n->workers)[0], $worker, 'and is the same');
    $n->stop->check_clean;
}

# The engine dies while @after still runs.
{
    my $n = new_nginx();
    my ($worker) = $n->workers;
    leave($n, ignore_cancel => 'true');
    ok($n->wait_for(sub { $n->log =~ /client prematurely closed/ }), 'the client has left');
    my $engine = $n->engine;
    kill 'KILL', $engine;
    ok($n->wait_for(sub { ($n->engine // $engine) != $engine }), 'its engine is another one now');
    ok($n->wait_for(sub { $n->log('access.log') =~ m{POST /other} }), '@after has had its turn');
    $n->served('the worker serves');
    is(($n->workers)[0], $worker, 'and is the same');
    $n->stop->check_clean(except => qr/signal 9/);
}

# An answer for which there is only a header any more: nobody takes its body, and
# nobody waits for that.
{
    my $n = LLM::Nginx->new(workers => 1, engines => { chat => '', other => '' },
        location => '}
            location = /v1/chat/completions { llm_pass chat; post_action @again; }
            location @again { llm_pass other; llm_buffer_size 16k; }
            location = /other { llm_endpoint metrics; llm_pass other;');
    $n->start->wait_ready;
    is($n->chat(stream => 'true', tokens => 1000, bytes => 5000)->{status}, 200, 'a large answer');
    ok($n->wait_for(sub {
        my $is = ($n->get('/other') // { body => '' })->{body};
        $is =~ /tokens_total 1000$/m && $is =~ /running 0$/m;
    }, 5), 'and once more for @again, to its end') or diag($n->get('/other')->{body});
    $n->stop->check_clean;
}

done_testing();
