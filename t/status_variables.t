# status_variables.t - $llm_* in the log for every way a request can end.
#
# Aborted clients: t/clients_abort.t.
use strict;
use warnings;

use FindBin;
use Test::More;

require "$FindBin::Bin/lib/LLM/Nginx.pm";

my $n = LLM::Nginx->new(workers => 1, http => q{
        log_format v '$uri [$status] engine=$llm_engine model=$llm_model finish=$llm_finish_reason '
            'tokens=$llm_prompt_tokens/$llm_cached_tokens/$llm_completion_tokens stream=$llm_stream '
            'ttft=$llm_ttft tpot=$llm_tpot id=$llm_request_id';
    }, location => 'access_log logs/v.log v;', server => q{
        access_log logs/v.log v;
        log_subrequest on;
        location = /page { ssi on; ssi_types *; default_type text/plain;
            return 200 "[<!--# include virtual=\"/v1/models\" -->]"; }
        location /denied/ { deny all; llm_pass chat; access_log logs/v.log v; }
        location /spare/ { error_page 503 =200 @spare; llm_pass chat; access_log logs/v.log v; }
        location @spare { return 200 "spare"; }
    });
$n->start->wait_ready;

# The first line for this URI.
sub logged {
    my ($uri, $name, $want) = @_;
    my $line;
    my $ok = $n->wait_for(sub { ($line) = $n->log('v.log') =~ /^(\Q$uri\E \[.*)$/m; $line });
    return like($line, $want, $name);
}

sub post {
    my ($path, %mock) = @_;
    return $n->get($path, body => LLM::Nginx::body(%mock));
}

my $none = qr/model=- finish=- tokens=-\/-\/- stream=- ttft=- tpot=-/;

post('/a/v1/chat/completions', stream => 'false', tokens => 7, prompt_tokens => 11, cached_tokens => 4);
logged('/a/v1/chat/completions', 'an answer',
    qr{\[200\] engine=chat model=mock finish=stop tokens=11/4/7 stream=0 ttft=0\.\d{6} tpot=\S+ id=[0-9a-f]{32}$});

post('/b/v1/chat/completions', tokens => 3, finish => 'length');
logged('/b/v1/chat/completions', 'a stream', qr{\[200\] engine=chat model=mock finish=length tokens=3/0/3 stream=1 });

post('/c/v1/nothing');
logged('/c/v1/nothing', 'refused by the module', qr/\[404\] engine=- $none id=[0-9a-f]{32}$/);

$n->get('/denied/v1/models');
logged('/denied/v1/models', 'refused by nginx', qr/\[403\] engine=- $none id=[0-9a-f]{32}$/);

post('/d/v1/chat/completions', refuse => 'true');
logged('/d/v1/chat/completions', 'refused by the engine',
    qr{\[503\] engine=chat model=\S+ finish=- tokens=-/-/- stream=0 ttft=- tpot=- id=});

post('/e/v1/chat/completions', tokens => 4, finish => 'numeric_error', error_event => 'true');
logged('/e/v1/chat/completions', 'failed in the engine', qr{\[200\] engine=chat model=mock finish=numeric_error tokens=3/0/4 stream=1});

$n->get('/f/v1/models', method => 'HEAD');
logged('/f/v1/models', 'HEAD', qr{\[200\] engine=chat model=- finish=- tokens=-/-/- stream=0});

$n->get('/page');
logged('/v1/models', 'a subrequest', qr{\[200\] engine=chat model=- finish=- tokens=-/-/- stream=0});
logged('/page', 'and its parent', qr/\[200\] engine=- $none/);

post('/spare/v1/chat/completions', refuse => 'true');
logged('/spare/v1/chat/completions', 'answered elsewhere by error_page: only what the body asked for',
    qr{\[200\] engine=- model=mock finish=- tokens=-/-/- stream=- ttft=- tpot=- id=-$});

my $s = $n->stream(tokens => 100000, delay_ms => 20);
$s->read_until(qr/tok2 /);
kill 'KILL', $n->engine;
$s->finish;
logged('/v1/chat/completions', 'lost in the middle of a stream',
    qr{\[200\] engine=chat model=\S+ finish=engine_lost tokens=-/-/- stream=1 ttft=0\.\d{6} });

$n->stop->check_clean;
done_testing();
