package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

type x509 struct {
	ID       string    `json:"id"`
	Hint     string    `json:"hint,omitempty"`
	DNSNames []string  `json:"dnsNames,omitempty"`
	NotAfter time.Time `json:"notAfter"`
}

type jwt struct {
	ID       string    `json:"id"`
	Hint     string    `json:"hint,omitempty"`
	Audience []string  `json:"audience"`
	Expiry   time.Time `json:"expiry"`
}

type fetched struct {
	Default string   `json:"default"`
	X509    []x509   `json:"x509"`
	Bundles []string `json:"bundles"`
	JWT     []jwt    `json:"jwt"`
}

// fetch prints what each part of the Workload API gives. The tokens are verified twice: here by the JWT bundles, and
// by ValidateJWTSVID.
func fetch(ctx context.Context, o options) error {
	ctx, cancel := context.WithTimeout(ctx, o.timeout)
	defer cancel()
	var out fetched

	source, err := source(ctx, o)
	if err != nil {
		return err
	}
	defer source.Close()
	svid, err := source.GetX509SVID()
	if err != nil {
		return fmt.Errorf("the default X.509-SVID: %w", err)
	}
	out.Default = svid.ID.String()

	client, err := workloadapi.New(ctx, workloadapi.WithAddr(o.socket))
	if err != nil {
		return fmt.Errorf("the Workload API on %s: %w", o.socket, err)
	}
	defer client.Close()
	x509Context, err := client.FetchX509Context(ctx)
	if err != nil {
		return fmt.Errorf("the X.509 context: %w", err)
	}
	for _, svid := range x509Context.SVIDs {
		leaf := svid.Certificates[0]
		out.X509 = append(out.X509, x509{svid.ID.String(), svid.Hint, leaf.DNSNames, leaf.NotAfter})
	}
	for _, bundle := range x509Context.Bundles.Bundles() {
		out.Bundles = append(out.Bundles, bundle.TrustDomain().String())
	}

	tokens, err := client.FetchJWTSVIDs(ctx, jwtsvid.Params{Audience: o.audience})
	if err != nil {
		return fmt.Errorf("the JWT-SVIDs: %w", err)
	}
	bundles, err := client.FetchJWTBundles(ctx)
	if err != nil {
		return fmt.Errorf("the JWT bundles: %w", err)
	}
	for _, token := range tokens {
		if _, err := jwtsvid.ParseAndValidate(token.Marshal(), bundles, []string{o.audience}); err != nil {
			return fmt.Errorf("the JWT-SVID of %s by the bundles: %w", token.ID, err)
		}
		if _, err := client.ValidateJWTSVID(ctx, token.Marshal(), o.audience); err != nil {
			return fmt.Errorf("the JWT-SVID of %s by the Workload API: %w", token.ID, err)
		}
		out.JWT = append(out.JWT, jwt{token.ID.String(), token.Hint, token.Audience, token.Expiry})
	}

	encoder := json.NewEncoder(os.Stdout)
	encoder.SetIndent("", "  ")
	return encoder.Encode(out)
}
