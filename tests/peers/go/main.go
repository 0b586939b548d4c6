// Command peer is a SPIFFE workload by go-spiffe, which knows nothing of sidegate: tests let it judge sidegate's
// Workload API, and let it talk to sidegate as any other peer would.
//
//	peer fetch -socket unix:///run/x                                            what the Workload API gives, as JSON
//	peer serve -socket unix:///run/x -listen ADDR -accept spiffe://a.test/web   a TLS echo server
//	peer dial  -socket unix:///run/x -to ADDR -expect spiffe://a.test/web       stdin there, the reply to stdout
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/spiffetls/tlsconfig"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

// options of all subcommands; each has those that its line above names.
type options struct {
	socket, listen, accept, to, expect, audience string
	timeout                                      time.Duration
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("no subcommand; give fetch, serve or dial")
	}
	var o options
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.StringVar(&o.socket, "socket", "", "where the Workload API is, e.g. unix:///run/x")
	flags.DurationVar(&o.timeout, "timeout", 10*time.Second, "how long to wait for the Workload API and for a handshake")
	var command func(context.Context, options) error
	switch args[0] {
	case "fetch":
		command = fetch
		flags.StringVar(&o.audience, "audience", "peer", "the audience of the JWT-SVIDs")
	case "serve":
		command = serve
		flags.StringVar(&o.listen, "listen", "", "the address to listen on")
		flags.StringVar(&o.accept, "accept", "", "the SPIFFE ID of the only client that may connect; any where it is empty")
	case "dial":
		command = dial
		flags.StringVar(&o.to, "to", "", "the address to connect to")
		flags.StringVar(&o.expect, "expect", "", "the SPIFFE ID of the only server to talk to; any where it is empty")
	default:
		return fmt.Errorf("no subcommand %q; give fetch, serve or dial", args[0])
	}
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	return command(ctx, o)
}

// source waits for the first X.509-SVID and follows its rotation.
func source(ctx context.Context, o options) (*workloadapi.X509Source, error) {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	source, err := workloadapi.NewX509Source(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr(o.socket)))
	if err != nil {
		return nil, fmt.Errorf("no X.509-SVID from %s: %w", o.socket, err)
	}
	return source, nil
}

// only authorizes one SPIFFE ID, or any of a trusted domain where it is empty.
func only(id string) (tlsconfig.Authorizer, error) {
	if id == "" {
		return tlsconfig.AuthorizeAny(), nil
	}
	parsed, err := spiffeid.FromString(id)
	if err != nil {
		return nil, fmt.Errorf("%q is not a SPIFFE ID: %w", id, err)
	}
	return tlsconfig.AuthorizeID(parsed), nil
}
