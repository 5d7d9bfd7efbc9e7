package redact

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"html"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"
)

// with replaces the known secrets until the test ends.
func with(t *testing.T, add func()) {
	t.Helper()
	before := known
	known = newSecrets()
	t.Cleanup(func() { known = before })
	add()
}

// echoes returns the forms in which servers may repeat a text.
func echoes(t *testing.T, text string) []string {
	t.Helper()
	inJSON, err := json.Marshal(text)
	require.NoError(t, err)
	all := []string{
		text, url.QueryEscape(text), url.PathEscape(text), strings.ToLower(url.QueryEscape(text)),
		string(inJSON), strconv.Quote(text), html.EscapeString(text),
	}
	for _, whole := range []string{text, "bob:" + text, "a-robot:" + text, `{"x":"` + text + `"}`, text + ":x-oauth", "u" + text + "zz"} {
		for _, encoding := range []*base64.Encoding{base64.StdEncoding, base64.RawStdEncoding, base64.URLEncoding, base64.RawURLEncoding} {
			encoded := encoding.EncodeToString([]byte(whole))
			all = append(all, encoded, url.QueryEscape(encoded))
		}
	}
	return all
}

func TestKnownSecretsAreTakenOutOfEveryEcho(t *testing.T) {
	for _, secret := range []string{"hunter2", "correct horse battery staple", `p@ss/w+rd"&<>%\ü?=`, "Zm9vYmFyYmF6?~>", strings.Repeat("long-", 500)} {
		with(t, func() { Add(secret) })
		for _, echo := range echoes(t, secret) {
			if secret != strings.ToLower(secret) && echo == strings.ToLower(url.QueryEscape(secret)) {
				continue // another secret
			}
			for _, text := range []string{"denied: %s is wrong", "%s", "a=%s&b=1", `{"message":"no %s"}`, "<p>%s</p>"} {
				got := Text(fmt.Sprintf(text, echo))
				require.Contains(t, got, mask, echo)
				require.NotContains(t, got, echo)
				require.NotContains(t, got, secret)
			}
			// The text around the secret may stay, and in base64 also parts of its ends.
			left := strings.ReplaceAll(Text("denied: "+echo+" is wrong"), mask, "")
			require.LessOrEqual(t, len(left), len("denied:  is wrong")+len(`{"x":""}`)*2, "%s in %s", left, echo)
		}
	}
}

// TestCutSecrets: if a text ends in the middle of a secret, that part is replaced.
func TestCutSecrets(t *testing.T) {
	with(t, func() { Add("correct horse battery staple") })
	encoded := base64.StdEncoding.EncodeToString([]byte("bob:correct horse battery staple"))
	for text, want := range map[string]string{
		"StatusCode: 403, correct ho...":                 "StatusCode: 403, xxxxx...",
		"StatusCode: 403, correct horse batter…":         "StatusCode: 403, xxxxx…",
		"StatusCode: 403, Basic " + encoded[:20] + "...": "StatusCode: 403, Basic xxxxx",
		"a correct house":                                "a correct house",
	} {
		require.Equal(t, want, Text(text))
	}
	require.NotContains(t, Line(strings.Repeat("a ", 4*maxLength-8)+"correct horse battery staple"), "corr")
}

func TestShortSecrets(t *testing.T) {
	with(t, func() { AddLogin("bob", "abc"); AddLogin("eve", "admin"); Add("") })
	for text, want := range map[string]string{
		"abcd abc administrator":                                        "abcd abc administrator",
		`user "admin" is not admin.`:                                    `user "xxxxx" is not xxxxx.`,
		"manifest of badminton":                                         "manifest of badminton",
		"got " + base64.StdEncoding.EncodeToString([]byte("bob:abc")):   "got xxxxx==",
		"got " + base64.StdEncoding.EncodeToString([]byte("eve:admin")): "got xxxxx",
	} {
		require.Equal(t, want, Text(text))
	}
}

func TestSecretsThatTouch(t *testing.T) {
	with(t, func() { Add("hunter2", "hunter2-and-more", "2-and-most") })
	require.Equal(t, "a xxxxx b xxxxx c", Text("a hunter2-and-more b hunter2hunter2-and-most c"))
}

// TestRecentSecretsAreBounded: of the recent secrets, only the last are kept. Those with which the
// process was started are all kept.
func TestRecentSecretsAreBounded(t *testing.T) {
	with(t, func() { Add("hunter2") })
	token := func(i int) string { return fmt.Sprintf("token-number-%06d-end", i) }
	const all = maxRecent + maxRecent/2
	for i := range all {
		AddRecent(token(i))
		AddRecent(token(i))
	}
	require.Len(t, known.recent, maxRecent)
	require.Len(t, known.kept, maxRecent+1)
	require.Less(t, len(known.users), 10*(maxRecent+1))
	require.Equal(t, "xxxxx xxxxx", Text("hunter2 "+token(all-1)))
	require.Equal(t, token(0), Text(token(0)))
	for i := range maxRecent {
		known.forget(token(all - maxRecent + i))
	}
	require.Len(t, known.users, len(needlesOf("hunter2")))
}

func TestSecretsFromManySides(t *testing.T) {
	with(t, func() {})
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			for n := range 200 {
				AddRecent(fmt.Sprintf("secret-%d-%d", i, n))
				require.NotContains(t, Text(fmt.Sprintf("is secret-%d-%d known?", i, n)), "secret")
			}
		})
	}
	group.Wait()
}

func TestAddEnvironment(t *testing.T) {
	with(t, func() {
		AddEnvironment([]string{
			"NATS_PASSWORD=nats-password", "NATS_TOKEN=nats-token", "NATS_KEY=./client.key", "NATS_USER=worker",
			"NATS_URL=nats://u:first-server@a:4222, u:second-server@b:4222",
			"MIRROR_SOURCE_URL=https://list:list-password@host/l?private_token=list-token&ref=main&x=Ab3dEf9hIjKlMnOp",
			"HTTPS_PROXY=http://proxy:proxy%40password@p:3128", "http_proxy=proxy:bare-proxy@p:3128",
			"https_proxy=http://proxy:un/escaped@p:3128",
			"AWS_SECRET_ACCESS_KEY=aws-secret", "AWS_WEB_IDENTITY_TOKEN_FILE=/var/run/token", "AZURE_CLIENT_ID=azure-client",
			"IMAGE=nginx:1.25.3-alpine@sha256:0", "TOKENIZERS_PARALLELISM=enabled", "GIT=https://glpat-0123456789abcdef@git/l",
		})
	})
	for _, secret := range []string{
		"nats-password", "nats-token", "first-server", "second-server", "list-password", "list-token", "Ab3dEf9hIjKlMnOp",
		"proxy@password", "proxy%40password", "bare-proxy", "un/escaped", "aws-secret", "glpat-0123456789abcdef",
	} {
		require.Equal(t, "is "+mask, Text("is "+secret))
	}
	for _, word := range []string{"./client.key", "worker", "main", "/var/run/token", "azure-client", "1.25.3-alpine", "enabled", "proxy", "list"} {
		require.Equal(t, "is "+word, Text("is "+word))
	}
}

func BenchmarkText(b *testing.B) {
	before := known
	known = newSecrets()
	defer func() { known = before }()
	for i := range maxRecent {
		AddRecent(fmt.Sprintf("token-number-%06d-end", i))
	}
	text := strings.Repeat("reading manifest sha256:0123456789abcdef in quay.io/osism/tool: unauthorized ", 12)
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		Text(text)
	}
}
