"""The reference shop: four services that fulfil an order without knowing one another."""
