# Check.pm - compares a response and the logs with a block's expectations.
#
# Each function runs exactly as many tests as openresty's Test::Nginx::Socket
# does for the same section, whether they pass or not, so that a plan holds on
# both: one per response for the status, body and raw headers, one per header
# line, one per log pattern.
package Test::Nginx::Standin::Check;

use strict;
use warnings;

use Digest::MD5 ();
use Digest::SHA ();
use Encode ();
use Exporter 'import';
use JSON::PP ();
use Test::LongString ();
use Test::More ();
use Test::Nginx::Util qw(
    bail_out expand_env extra_failure is_str trim access_log_lines error_log_lines);

our @EXPORT_OK = qw(
    check_response check_error_log check_access_log check_shutdown_log);

my %FILTERS = (
    md5_hex => \&Digest::MD5::md5_hex,
    sha1_hex => \&Digest::SHA::sha1_hex,
    length  => sub { length $_[0] },
    uc      => sub { uc $_[0] },
    lc      => sub { lc $_[0] },
    ucfirst => sub { ucfirst $_[0] },
    lcfirst => sub { lcfirst $_[0] },
);

# ---- responses --------------------------------------------------------------

# $at: { req => index, repeat => index, many => several responses expected? }
sub check_response {
    my ($block, $res, $raw_headers, $at) = @_;
    local $Test::Builder::Level = $Test::Builder::Level + 1;
    _check_status($block, $res, $at);
    _check_raw_headers($block, $raw_headers // '', $at);
    _check_headers($block, $res, $raw_headers // '', $at);
    _filter_body($block, $res, $at);
    _check_body($block, $res, $at);
    for my $check (@Test::Nginx::Util::ResponseBodyChecks) {
        $check->($block, $res ? $res->{content} : undef, $at->{req}, $at->{repeat}, 0);
    }
    return;
}

# The element of an expectation that belongs to this response.
sub _expected {
    my ($block, $section, $at) = @_;
    my $value = $block->$section;
    return $value->[$at->{req}] if ref $value eq 'ARRAY';
    bail_out($block->name . " - several responses need an array in --- $section")
        if $at->{many};
    return $value;
}

sub _with_ports {
    my ($text) = @_;
    return $text if !defined $text || ref $text;
    $text =~ s/\$ServerPortForClient\b/$Test::Nginx::Util::ServerPortForClient/g;
    $text =~ s/\$ServerPort\b/$Test::Nginx::Util::ServerPort/g;
    return $text;
}

sub _check_status {
    my ($block, $res, $at) = @_;
    my $code = $res ? $res->{code} // '' : '';
    my $name = $block->name . ' - status code ok';
    if (defined $block->error_code_like) {
        my $pattern = _expected($block, 'error_code_like', $at);
        Test::More::like($code, qr/$pattern/sm, $name);
        return;
    }
    my $want = defined $block->error_code ? _expected($block, 'error_code', $at) : 200;
    Test::More::is($code, $want, $name);
    return;
}

sub _check_raw_headers {
    my ($block, $raw, $at) = @_;
    my %compare = (raw_response_headers_like => \&Test::More::like,
                   raw_response_headers_unlike => \&Test::More::unlike);
    for my $section (sort keys %compare) {
        next if !defined $block->$section;
        my $pattern = _expected($block, $section, $at);
        $compare{$section}->($raw, qr/$pattern/s, $block->name . " - $section");
    }
    return;
}

# "Name: value" lines; "! Name" says that there is no such header.
sub _check_headers {
    my ($block, $res, $raw, $at) = @_;
    my $section = defined $block->response_headers ? 'response_headers'
        : defined $block->response_headers_like ? 'response_headers_like' : return;
    my %wanted;
    for my $line (split /\n/, _expected($block, $section, $at) // '') {
        $line = trim($line);
        if ($line =~ s/^!\s*//) {
            $wanted{$line} = undef;
        } else {
            my ($key, $value) = split /\s*:\s*/, $line, 2;
            $wanted{ $key // '' } = $value;
        }
    }
    for my $key (sort keys %wanted) {
        my $want = _with_ports($wanted{$key});
        my $have = $res ? $res->{header}{lc $key} // '' : '';
        my $name = $block->name . " - header $key";
        if ($section eq 'response_headers_like') {
            $want //= '';
            Test::More::like($have, qr/^$want$/, "$name like");
        } elsif (defined $want) {
            Test::More::is($have, $want, "$name ok");
        } else {
            Test::More::unlike($raw, qr/^\s*\Q$key\E\s*:/m, "$name not present");
        }
    }
    return;
}

# Names, code references, an array of them, or an array of arrays: one each
# for every response.
sub _filter_body {
    my ($block, $res, $at) = @_;
    my $filters = $block->response_body_filters;
    return if !defined $filters || !$res;
    $filters = [split ' ', $filters] if !ref $filters;
    $filters = [$filters] if ref $filters ne 'ARRAY';
    $filters = $filters->[$at->{req}] if ref $filters->[0] eq 'ARRAY';
    bail_out($block->name . ' - --- response_body_filters has too few elements')
        if !defined $filters;
    for my $filter (@$filters) {
        my $code = ref $filter eq 'CODE' ? $filter : $FILTERS{$filter}
            // bail_out($block->name . " - unknown filter \"$filter\" in --- response_body_filters");
        $res->{content} = $code->($res->{content});
    }
    return;
}

sub _check_body {
    my ($block, $res, $at) = @_;
    my $content = $res ? $res->{content} : undef;
    my $name = $block->name . " - %s (repeated req $at->{repeat}, req $at->{req})";
    if (defined $block->response_body || defined $block->response_body_eval) {
        my $want;
        if (defined $block->response_body_eval) {
            $want = eval _expected($block, 'response_body_eval', $at);
            warn $@ if $@;
        } else {
            $want = _expected($block, 'response_body', $at);
        }
        if (!ref $want) {
            Encode::from_to($want, 'UTF-8', $block->charset) if $block->charset;
            $want = expand_env(_with_ports($want), $block->name);
        }
        $content = _sorted_json($content) if defined $block->response_body_json_sort;
        ref $want ? Test::More::like($content, $want, sprintf $name, 'response_body')
                  : is_str($content, $want, sprintf $name, 'response_body');
        return;
    }
    for my $section (qw(response_body_like response_body_unlike)) {
        next if !defined $block->$section;
        my $pattern = _with_ports(_expected($block, $section, $at));
        my $title = sprintf($name, $section) . ' (' . trim($content) . ')';
        $section eq 'response_body_like'
            ? Test::More::like($content, qr/$pattern/s, $title)
            : Test::More::unlike($content, qr/$pattern/s, $title);
        return;
    }
    return;
}

# Keys in order, so that two spellings of one object compare equal.
sub _sorted_json {
    my ($text) = @_;
    my $json = JSON::PP->new->canonical->loose;
    my $value;
    return eval { $value = $json->decode($text); 1 } ? $json->encode($value) . "\n" : $text;
}

# ---- logs -------------------------------------------------------------------

# A string is one literal pattern a line; a regex or an array is used as it is.
sub _patterns {
    my ($value) = @_;
    return grep { defined } @$value if ref $value eq 'ARRAY';
    return ($value) if ref $value;
    return grep { $_ ne '' } split /\n+/, $value;
}

sub _matches {
    my ($line, $pattern) = @_;
    return ref $pattern ? $line =~ $pattern : index($line, $pattern) >= 0;
}

# One test per pattern: present (or, with $unwanted, absent) in the lines.
sub _check_patterns {
    my ($block, $section, $lines, $unwanted, $note) = @_;
    for my $pattern (_patterns($block->$section)) {
        my ($hit) = grep { _matches($_, $pattern) } @$lines;
        my $what = "pattern \"$pattern\" " . ($unwanted ? 'matches no line' : 'matches a line');
        my $ok = Test::More::ok($unwanted ? !defined $hit : defined $hit,
            $block->name . " - $section - $what$note");
        Test::More::diag("the line is: $hit") if !$ok && defined $hit;
    }
    return;
}

sub check_access_log {
    my ($block, $repeat) = @_;
    return if !defined $block->access_log && !defined $block->no_access_log;
    my $lines = access_log_lines();
    my $note = " (req $repeat)";
    _check_patterns($block, 'access_log', $lines, 0, $note) if defined $block->access_log;
    _check_patterns($block, 'no_access_log', $lines, 1, $note) if defined $block->no_access_log;
    return;
}

sub check_error_log {
    my ($block, $repeat) = @_;
    my $lines = error_log_lines();
    my $note = " (req $repeat)";
    _check_grep($block, $lines, $repeat);
    _check_patterns($block, 'error_log', $lines, 0, $note) if defined $block->error_log;
    _check_patterns($block, 'no_error_log', $lines, 1, $note) if defined $block->no_error_log;
    _warn_of_alarms($block, $lines);
    for my $line (grep { /\bAssertion .*?failed\b/ } @$lines) {
        extra_failure($block->name . " - $line");
    }
    return;
}

# What grep_error_log matches, a line each, is compared with grep_error_log_out.
sub _check_grep {
    my ($block, $lines, $repeat) = @_;
    my ($pattern, $want) =
        (scalar $block->grep_error_log, scalar $block->grep_error_log_out);
    return if !defined $pattern && !defined $want;
    bail_out($block->name . ' - --- grep_error_log and --- grep_error_log_out need each other')
        if !defined $pattern || !defined $want;
    $pattern = $pattern->[$repeat] if ref $pattern eq 'ARRAY';
    $want = $want->[$repeat] if ref $want eq 'ARRAY';
    $want = expand_env($want, $block->name) if !ref $want;
    my $regex = ref $pattern ? $pattern : qr/\Q$pattern\E/;
    my $found = '';
    for my $line (@$lines) {
        $found .= "$&\n" if $line =~ $regex && index($&, "\n") < 0;
    }
    is_str($found, $want, $block->name . " - grep_error_log_out (req $repeat)");
    return;
}

# Serious lines are shown even when no section asks about their level.
sub _warn_of_alarms {
    my ($block, $lines) = @_;
    my $named = join "\n", map { _patterns($_) }
        grep { defined } $block->error_log, $block->no_error_log;
    for my $level (qw(alert crit emerg)) {
        next if index($named, "[$level") >= 0;
        warn 'WARNING: ', $block->name, " - $_" for grep { /\[$level\]/ } @$lines;
    }
    return;
}

# The lines nginx wrote while it stopped; without a stop there are none to see.
sub check_shutdown_log {
    my ($block, $not_stopped) = @_;
    my @wanted = _patterns($block->shutdown_error_log // []);
    my @unwanted = _patterns($block->no_shutdown_error_log // []);
    return if !@wanted && !@unwanted;
    if ($not_stopped) {
        SKIP: {
            Test::More::skip($block->name . ' - nginx was not stopped', @wanted + @unwanted);
        }
        return;
    }
    my $lines = error_log_lines();
    _check_patterns($block, 'shutdown_error_log', $lines, 0, '') if @wanted;
    _check_patterns($block, 'no_shutdown_error_log', $lines, 1, '') if @unwanted;
    return;
}

1;
